"""Defenses at test time in an evaluation: their rows, and the attackers who know them.

``static`` attacks the undefended model, as papers do. ``adaptive`` is the worst, image by image, of several attacks:
the static images; the same attack through every gradient that the defense names, on cross-entropy and on the margin,
from a random start and from the static images; APGD through the first of these gradients; and Square, which needs none,
where a query is cheap. Attacks that are a defense's own and not its first look only at images that are still correct.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from advpt.attacks import parse
from advpt.attacks.noise import SampleNoise
from advpt.attacks.spec import AttackSpec
from advpt.bank.defended_input import AdaptiveTarget, DefendedInput, Encode
from advpt.data.images import ImageSet
from advpt.defenses.chain import Chain
from advpt.errors import ConfigError
from advpt.evaluation.defended import AttackPart, Defended, EvaluationRow
from advpt.evaluation.protocols import Threat, threats
from advpt.evaluation.record import DefenseFacts
from advpt.evaluation.tuned import Tuned
from advpt.files import canonical_json
from advpt.schema import JsonObject
from advpt.settings import PROTOCOLS, EvalSettings
from advpt.test_time.base import Cost, DefendedModel, Draws, TestTimeDefense, Variant
from advpt.test_time.spec import TestTimeSpec, parse_all

CHEAP = 5  # image passes to classify an image, up to which Square's queries are asked of a defense
OBJECTIVES = ("ce", "margin")
STATIC = "static"
STOCHASTIC = "aa-rand"
KNOWING = ("pseudo", "adaptive")  # protocols on EVAL.ADAPTIVE_SUBSET


@dataclass(frozen=True, eq=False)
class TestTimeTarget:
    """What an attacker who knows a defense at test time differentiates.

    Args:
        chain: defenses of the input before it. bpda: as of :class:`~advpt.bank.defended_input.DefenseAwareForward`.
        start: the attack on the undefended model whose images it starts from.
        fixed_draws: the attacker draws once and for all, for attacks that need the same logits each time.
    """

    __test__: ClassVar[bool] = False  # not one of pytest's
    gives_logits: ClassVar[bool] = True
    by_image: ClassVar[bool] = False  # draws are for a whole batch

    variant: Variant
    chain: Chain | None = None
    bpda: bool = False
    start: AttackSpec | None = None
    fixed_draws: bool = False

    def encoder(self, encode: Encode, ids: Sequence[str], seed: int, clean: object = None) -> Encode:
        """Pixels of all or some of these images to logits."""
        batch_seed = SampleNoise([f"attacker {name}" for name in ids], seed).batch_seed
        generator = torch.Generator().manual_seed(batch_seed)

        def forward(pixels: Tensor) -> Tensor:
            source = torch.Generator().manual_seed(batch_seed) if self.fixed_draws else generator
            if self.chain is not None:
                pixels = self.chain.attackable(pixels, source, bpda=self.bpda)
            return self.variant(encode, pixels, Draws.of_attacker(source, len(pixels)))

        return forward

    def parameters(self) -> JsonObject:
        """The part of a bank's key."""
        fields: JsonObject = {"variant": self.variant.parameters, "fixed_draws": self.fixed_draws}
        if self.chain is not None:
            fields |= {"stages": self.chain.parameters(), "gradient": self.chain.gradients(self.bpda)}
        return fields | ({"start": self.start.build().parameters()} if self.start is not None else {})


class Plain(TestTimeDefense):
    """The undefended model, so that the same attackers can be asked of it and of defenses of its input."""

    name = "plain"

    def __init__(self, model: DefendedModel, seed: int = 0) -> None:
        super().__init__(model, None, seed)

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        return self.model.classifier.logits(encode(pixels))

    def variants(self) -> tuple[Variant, ...]:
        about = {"name": self.name, "text": self.model.classifier.digest}
        return (Variant("the model", lambda encode, pixels, draws: self.classify(encode, pixels, draws, False), about),)

    def cost(self) -> Cost:
        return Cost()

    def parameters(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "text": self.model.classifier.digest, "gives": "logits"}


@dataclass(frozen=True, eq=False, kw_only=True)
class TestTimeRow(EvaluationRow):
    """The images behind a defense at test time, and before it behind a chain of defenses of the input. Made by
    :func:`plan`.

    Args:
        text, expanded: the short and the full form; "" for no defense at all.
        defenses: one for each seed of its draws.
        shared: parameters, as JSON, of gradients that other rows have as well.
    """

    __test__: ClassVar[bool] = False  # not one of pytest's

    text: str
    expanded: str
    defenses: tuple[TestTimeDefense, ...]
    chain: Chain | None = None
    shared: frozenset[str] = frozenset()

    @property
    def defense(self) -> TestTimeDefense:
        return self.defenses[0]

    @functools.cached_property
    def variants(self) -> tuple[Variant, ...]:
        return self.defense.variants()

    def applies_to(self, threat: Threat) -> bool:
        return super().applies_to(threat) and threat.protocol != "tuned"

    def cost(self) -> Cost:
        return self.defense.cost()

    @property
    def depends_on_batch(self) -> bool:
        return not self.defense.by_image

    def knowledge(self, threat: Threat) -> str:
        if threat.own_network or not self.text:
            return threat.knows
        return f"{threat.knows}, and the defense" if threat.is_adaptive else f"{threat.knows}; not the defense"

    def facts(self, threat: Threat | None, bpda: bool) -> DefenseFacts | None:
        if not self.text:
            return None
        stages, gradient = self.chain.parameters() if self.chain is not None else [], dict[str, str]()
        if not isinstance(self.defense, Plain):
            stages.append({name: value for name, value in self.defense.parameters().items() if name != "seed"})
            gradient = {f"{self.defense.name}, {each.name}": each.gradient for each in self.variants}
        if self.chain is not None:
            gradient = self.chain.gradients(bpda) | gradient
        return DefenseFacts(
            spec=self.text,
            expanded=self.expanded,
            stages=tuple(stages),
            seeds=tuple(each.seed for each in self.defenses) if self._draws else (None,),
            gradient=gradient if threat is not None and threat.is_adaptive else None,
        )

    @property
    def _draws(self) -> bool:
        return self.defense.draws_noise or (self.chain is not None and self.chain.draws_noise)

    def parts(self, threat: Threat, settings: EvalSettings) -> tuple[AttackPart, ...]:
        if not threat.is_adaptive:
            return ()
        return (
            AttackPart(STATIC, threat, None),
            *self._through_gradients(threat, settings),
            *self._last(threat, settings),
        )

    def _through_gradients(self, threat: Threat, settings: EvalSettings) -> Iterator[AttackPart]:
        spec = threat.attack
        for variant in self.variants:
            first, shared = True, canonical_json(variant.parameters) in self.shared
            if spec.name != "pgd":
                target = self._target(variant, settings, fixed_draws=True)
                yield AttackPart(variant.name, threat, target, left=not shared, variant=variant)
                continue
            for objective in dict.fromkeys((spec.objective, *OBJECTIVES)):
                attack = spec if objective == spec.objective else spec.with_objective(objective)
                if self._draws or variant.mean_over > 1:
                    attack = attack.with_eot(max(1, settings.eot // variant.mean_over))
                for start in (None, spec):
                    name = f"{variant.name}, {objective}{' from static' if start is not None else ''}"
                    target = self._target(variant, settings, start=start)
                    part = dataclasses.replace(threat, attack=attack)
                    yield AttackPart(name, part, target, left=not first and not shared, variant=variant)
                    first = False

    def _last(self, threat: Threat, settings: EvalSettings) -> Iterator[AttackPart]:
        """The attacks of another kind, on the images that all others left."""
        spec, norm = threat.attack, f"/{threat.attack.norm}" if threat.attack.norm != "linf" else ""
        if spec.name != "pgd":
            return
        apgd = dataclasses.replace(threat, attack=parse(f"apgd-ce{spec.steps}@{spec.eps:g}{norm}"))
        target = self._target(self.variants[0], settings, fixed_draws=True)
        yield AttackPart(f"{self.variants[0].name}, APGD", apgd, target, left=True)
        if settings.queries and self.cost().forward <= CHEAP:
            square = dataclasses.replace(threat, attack=parse(f"square{settings.queries}@{spec.eps:g}{norm}"))
            itself = Variant("itself", self._itself, self._itself_parameters())
            yield AttackPart("Square", square, self._target(itself, settings, fixed_draws=True), left=True)

    def _itself(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        with torch.no_grad():
            return self.defense.classify(encode, pixels, draws, False)

    def _itself_parameters(self) -> JsonObject:
        return {"itself": {name: value for name, value in self.defense.parameters().items() if name != "seed"}}

    def _target(
        self, variant: Variant, settings: EvalSettings, start: AttackSpec | None = None, fixed_draws: bool = False
    ) -> AdaptiveTarget:
        return TestTimeTarget(variant, self.chain, settings.bpda, start, fixed_draws)


def plan(
    planned: Sequence[EvaluationRow],
    settings: EvalSettings,
    images: ImageSet,
    device: torch.device,
    model: DefendedModel | None,
) -> list[EvaluationRow]:
    """``planned`` and a row for each defense at test time of the settings. Under ``pseudo`` and ``adaptive`` all are
    measured on ``EVAL.ADAPTIVE_SUBSET`` of the images, and no defense and defenses of the input under the attackers
    that those at test time have.

    Raises:
        ConfigError: there is no model that such a defense could know. DefenseError: this model cannot have one of them.
    """
    specs = parse_all(settings.test_time)
    if not specs:
        return list(planned)
    if model is None:
        raise ConfigError("EVAL.TEST_TIME names defenses at test time, and this evaluation has no model to defend")
    few, maker = images.first(settings.adaptive_subset), _RowMaker(settings, device, model)
    others = tuple(name for name in PROTOCOLS if name not in KNOWING)
    mine = [row for row in planned if isinstance(row, Tuned)]
    plain = [row for row in planned if not isinstance(row, Tuned) and len(row.images) == len(images)]
    first = [
        dataclasses.replace(row, protocols=others) for row in [*plain, *(maker.defended(s, images) for s in specs)]
    ]
    made = [*(maker.plain(row, few) for row in plain), *(maker.defended(spec, few) for spec in specs)]
    counts = Counter(canonical_json(variant.parameters) for row in made for variant in row.variants)
    shared = frozenset(parameters for parameters, count in counts.items() if count > 1)
    part = len(few) < len(images)
    return [*mine, *first, *(dataclasses.replace(row, protocols=KNOWING, shared=shared, part=part) for row in made)]


@dataclass(frozen=True)
class _RowMaker:
    settings: EvalSettings
    device: torch.device
    model: DefendedModel

    def plain(self, row: EvaluationRow, images: ImageSet) -> TestTimeRow:
        """A row without a defense at test time, under the attackers of those that have one."""
        chain = row.chain if isinstance(row, Defended) else None
        text, full = (str(row.spec), row.spec.expanded) if isinstance(row, Defended) else ("", "")
        return self._row(text, full, chain, lambda seed: Plain(self.model, seed), images)

    def defended(self, spec: TestTimeSpec, images: ImageSet) -> TestTimeRow:
        """The row of a defense at test time."""
        chain = spec.input.build(self.device) if spec.input is not None else None
        paths = {sample.id: Path(sample.path) for sample in images.samples}
        model = dataclasses.replace(self.model, files=paths)
        return self._row(str(spec), spec.expanded, chain, lambda seed: spec.build(model, seed), images)

    def _row(
        self, text: str, full: str, chain: Chain | None, build: Callable[[int], TestTimeDefense], images: ImageSet
    ) -> TestTimeRow:
        seeds = [self.settings.seed + i for i in range(self.settings.defense_seeds)]
        one, random = build(seeds[0]), chain is not None and chain.draws_noise
        defenses = (one, *map(build, seeds[1:])) if random or one.draws_noise else (one,)
        inputs = tuple(DefendedInput(chain, each.seed if random else None, each) for each in defenses)
        names = tuple(text.split("+")) if text else ()
        return TestTimeRow(
            images=images, names=names, inputs=inputs, text=text, expanded=full, defenses=defenses, chain=chain
        )


def check(settings: EvalSettings) -> None:
    """Parse the defenses of the settings, and refuse (ConfigError) attackers that cannot go through them; files and
    packages of input defenses must be there (WeightsError, DefenseError)."""
    specs = parse_all(settings.test_time)
    for spec in specs:
        if spec.input is not None:
            spec.input.require()
    for threat in threats(settings.attacks, settings.protocols) if specs else ():
        if threat.is_adaptive and threat.attack.name == STOCHASTIC:
            raise ConfigError(
                f"{threat.attack} under adaptive: the attackers of defenses at test time take means by themselves; use "
                "pgd (with EVAL.EOT) or an attack of AutoAttack's standard version"
            )
