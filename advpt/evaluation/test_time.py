"""Defenses at test time in an evaluation: their rows, and the attackers who know them.

``static`` attacks the undefended model, as papers do. ``adaptive`` is the worst, image by image, of several attacks:
the static images; the same attack through every gradient that the defense names, on cross-entropy and on the margin,
from a random start and from the static images; APGD through one of these gradients; and Square, which needs none, where
a query is cheap. All images get the first attack through every cheap gradient, and the attacks that several defenses
share (where a defense has neither, the first of its own); the others get the images that are still correct then. A dear
gradient that no other defense has is followed twice: on cross-entropy from a random start, and on the margin from the
static images.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.attacks import parse
from advpt.attacks.noise import SampleNoise
from advpt.attacks.spec import AttackSpec
from advpt.bank.defended_input import AdaptiveTarget, DefendedInput, Encode
from advpt.data.images import ImageSet
from advpt.defenses.chain import Chain
from advpt.errors import ConfigError
from advpt.evaluation.defended import AttackPart, Defended, EvaluationRow
from advpt.evaluation.flags import SQUARE
from advpt.evaluation.protocols import Threat, threats
from advpt.evaluation.record import DefenseFacts
from advpt.evaluation.tuned import Tuned
from advpt.files import canonical_json
from advpt.schema import JsonObject
from advpt.settings import PROTOCOLS, EvalSettings
from advpt.test_time.base import Cost, DefendedModel, Draws, TestTimeDefense, Variant
from advpt.test_time.counter import plain
from advpt.test_time.spec import TestTimeSpec, parse_all

CHEAP = 5  # image passes, up to which a defense gets Square's queries, and a gradient a number on all images
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
        fixed_draws: the attacker draws so often for each image, once and for all, and takes the mean prediction over
            these draws: for attacks that need the same logits each time. 0: new draws in every pass.
    """

    __test__: ClassVar[bool] = False  # not one of pytest's
    gives_logits: ClassVar[bool] = True
    by_image: ClassVar[bool] = False  # draws are for a whole batch

    variant: Variant
    chain: Chain | None = None
    bpda: bool = False
    start: AttackSpec | None = None
    fixed_draws: int = 0

    def encoder(self, encode: Encode, ids: Sequence[str], seed: int, clean: Tensor) -> Encode:
        """Pixels of all or some of these images to logits; ``clean [b, 3, h, w]``: the images before the attack."""
        generator = torch.Generator().manual_seed(SampleNoise([f"attacker {name}" for name in ids], seed).batch_seed)

        def forward(pixels: Tensor) -> Tensor:
            return self._logits(encode, pixels, Draws.of_attacker(generator, len(pixels)))

        def mean(pixels: Tensor) -> Tensor:
            keys = [ids[row] for row in rows_of(pixels, clean)]
            draws = [Draws(tuple(f"attacker {i} {key}" for key in keys), seed) for i in range(self.fixed_draws)]
            if len(draws) == 1:
                return self._logits(encode, pixels, draws[0])
            return torch.stack([self._logits(encode, pixels, each).log_softmax(-1) for each in draws]).logsumexp(0)

        return mean if self.fixed_draws else forward

    def _logits(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        if self.chain is not None:
            pixels = self.chain.attackable(pixels, draws.noise("defense"), bpda=self.bpda)
        return self.variant(encode, pixels, draws)

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
        return (dataclasses.replace(plain(self.model), name="the model", undefended=False),)

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

    @property
    def counts_votes(self) -> bool:
        return self.defense.counts_votes

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
        if len(self.defense.model.classnames) < 2:  # nothing can be taken for anything else
            return (AttackPart(STATIC, threat, None),)
        if not self.variants:
            return tuple(self._square(threat, settings, left=False))
        parts = sorted(self._through_gradients(threat, settings), key=lambda part: part.left)  # all images come first
        return (AttackPart(STATIC, threat, None), *parts, *self._last(threat, settings))

    def _through_gradients(self, threat: Threat, settings: EvalSettings) -> Iterator[AttackPart]:
        spec = threat.attack
        common = any(self._shares(variant) and not variant.undefended for variant in self.variants)
        for i, variant in enumerate(self.variants):
            cheap, shared = variant.cost.forward <= CHEAP, self._shares(variant)
            whole = cheap or (i == 0 and not common)
            if spec.name != "pgd":
                target = self._target(variant, settings, fixed_draws=self._means(variant, settings))
                part = dataclasses.replace(threat, attack=spec.perturbing_all())
                yield AttackPart(variant.name, part, target, left=not whole and not shared, variant=variant)
                continue
            objectives = tuple(dict.fromkeys((spec.objective, *OBJECTIVES)))
            pairs = itertools.product(objectives, (None, spec))
            for objective, start in pairs if cheap or shared else ((objectives[0], None), (objectives[1], spec)):
                if variant.undefended and self.chain is None and objective == spec.objective and start is None:
                    continue  # these are the static images
                attack = spec.on(objective).with_eot(self._means(variant, settings))
                name = f"{variant.name}, {objective}{' from static' if start is not None else ''}"
                part, target = dataclasses.replace(threat, attack=attack), self._target(variant, settings, start=start)
                yield AttackPart(name, part, target, left=not whole and not shared, variant=variant)
                whole = False

    def _shares(self, variant: Variant) -> bool:
        """Whether another row has this gradient as well."""
        return canonical_json(variant.parameters) in self.shared

    def _means(self, variant: Variant, settings: EvalSettings) -> int:
        """The number of passes that an attacker's gradient is a mean over."""
        chain = self.chain is not None and self.chain.draws_noise
        return max(1, settings.eot // variant.mean_over) if variant.draws or chain else 1

    def _last(self, threat: Threat, settings: EvalSettings) -> Iterator[AttackPart]:
        """The attacks of another kind, on the images that all others left."""
        spec = threat.attack
        if spec.name != "pgd":
            return
        first = next((each for each in self.variants if self._shares(each) and not each.undefended), self.variants[0])
        apgd = dataclasses.replace(threat, attack=parse(f"apgd-ce{spec.steps}@{_budget(spec)}/every"))
        target = self._target(first, settings, fixed_draws=self._means(first, settings))
        yield AttackPart(f"{first.name}, APGD", apgd, target, left=not self._shares(first))
        if self.cost().forward <= CHEAP:
            yield from self._square(threat, settings, left=True)

    def _square(self, threat: Threat, settings: EvalSettings, left: bool) -> Iterator[AttackPart]:
        """The attack that needs no gradient."""
        if settings.queries:
            square = parse(f"square{settings.queries}@{_budget(threat.attack)}")
            itself = Variant("itself", self._itself, self._itself_parameters(), draws=self.defense.draws_noise)
            target = self._target(itself, settings, fixed_draws=self._means(itself, settings))
            yield AttackPart(SQUARE, dataclasses.replace(threat, attack=square), target, left=left)

    def _itself(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        with torch.no_grad():
            return self.defense.classify(encode, pixels, draws, False)

    def _itself_parameters(self) -> JsonObject:
        return {"itself": {name: value for name, value in self.defense.parameters().items() if name != "seed"}}

    def _target(
        self, variant: Variant, settings: EvalSettings, start: AttackSpec | None = None, fixed_draws: int = 0
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
    maker, all_rows, part = RowMaker(settings, device, model), list(planned), images.first(settings.costly_subset)
    for spec in specs:
        costly = spec.input is not None and spec.input.costly and not settings.subset
        some = part if costly else images
        if len(some) < len(images) and not any(row.part for row in all_rows):
            all_rows.append(EvaluationRow(images=some, part=True))
        all_rows.append(dataclasses.replace(maker.defended(spec, some), part=len(some) < len(images)))
    return under_both(all_rows, settings, images, maker.again)


def under_both(
    rows: Sequence[EvaluationRow],
    settings: EvalSettings,
    images: ImageSet,
    again: Callable[[EvaluationRow, ImageSet], TestTimeRow | None],
) -> list[EvaluationRow]:
    """The rows under attackers who do not know the defense, and what ``again`` makes of them on
    ``EVAL.ADAPTIVE_SUBSET`` of the images under ``pseudo`` and ``adaptive``."""
    others = tuple(name for name in PROTOCOLS if name not in KNOWING)
    knowing: dict[tuple[str, int], TestTimeRow] = {}
    for row in rows:
        few = row.images.first(settings.adaptive_subset)
        other = again(row, few)
        if other is not None:
            made = dataclasses.replace(other, protocols=KNOWING, part=row.part or len(few) < len(images))
            knowing.setdefault((made.text, len(few)), made)
    counts = Counter(canonical_json(variant.parameters) for row in knowing.values() for variant in row.variants)
    shared = frozenset(parameters for parameters, count in counts.items() if count > 1)
    return [
        *(dataclasses.replace(row, protocols=others) for row in rows),
        *(dataclasses.replace(row, shared=shared) for row in knowing.values()),
    ]


def _budget(spec: AttackSpec) -> str:
    return f"{spec.eps!r}{f'/{spec.norm}' if spec.norm != 'linf' else ''}"


@dataclass(frozen=True)
class RowMaker:
    """Makes rows of defenses at test time of one model."""

    settings: EvalSettings
    device: torch.device
    model: DefendedModel

    def again(self, row: EvaluationRow, images: ImageSet) -> TestTimeRow | None:
        """A row on these images, under the attackers of defenses at test time; None for a variant of another row."""
        if isinstance(row, TestTimeRow):
            return dataclasses.replace(row, images=images)
        if isinstance(row, Tuned):
            name, defense = row.tuner.name, row.defense
            return None if row.beside else self.row(name, name, None, lambda seed: defense, images, draws=1)
        chain = row.chain if isinstance(row, Defended) else None
        text, full = (str(row.spec), row.spec.expanded) if isinstance(row, Defended) else ("", "")
        return self.row(text, full, chain, lambda seed: Plain(self.model, seed), images)

    def defended(self, spec: TestTimeSpec, images: ImageSet) -> TestTimeRow:
        """The row of a defense at test time."""
        chain = spec.input.build(self.device) if spec.input is not None else None
        paths = {sample.id: Path(sample.path) for sample in images.samples}
        model = dataclasses.replace(self.model, files=paths)
        return self.row(str(spec), spec.expanded, chain, lambda seed: spec.build(model, seed), images)

    def row(
        self,
        text: str,
        full: str,
        chain: Chain | None,
        build: Callable[[int], TestTimeDefense],
        images: ImageSet,
        draws: int = 0,
    ) -> TestTimeRow:
        """The row of one defense behind a chain of input defenses.

        Args:
            text, full: the short and the full form. build: the defense of a seed.
            draws: of a random defense, 0 for ``EVAL.DEFENSE_SEEDS``.
        """
        seeds = [self.settings.seed + i for i in range(draws or self.settings.defense_seeds)]
        one, random = build(seeds[0]), chain is not None and chain.draws_noise
        defenses = (one, *map(build, seeds[1:])) if random or one.draws_noise else (one,)
        inputs = tuple(DefendedInput(chain, each.seed if random else None, each) for each in defenses)
        names = tuple(text.split("+")) if text else ()
        return TestTimeRow(
            images=images, names=names, inputs=inputs, text=text, expanded=full, defenses=defenses, chain=chain
        )


def rows_of(pixels: Tensor, clean: Tensor) -> list[int]:
    """For each of ``pixels [n, 3, h, w]``, some of a batch under attack, the row of its clean image in ``clean
    [b, 3, h, w]``: the nearest one, in 64 mean colours."""
    some, all_of_them = (F.adaptive_avg_pool2d(each.detach().float(), 8).flatten(1) for each in (pixels, clean))
    rows: list[int] = torch.cdist(some, all_of_them, compute_mode="donot_use_mm_for_euclid_dist").argmin(1).tolist()
    return rows


def check(settings: EvalSettings) -> None:
    """Parse the defenses of the settings, and refuse (ConfigError) attackers that cannot go through them; files and
    packages of input defenses must be there (WeightsError, DefenseError)."""
    specs = parse_all(settings.test_time)
    for spec in specs:
        if spec.input is not None:
            spec.input.require()
    if specs:
        check_attackers(settings)


def check_attackers(settings: EvalSettings) -> None:
    """Refuse (ConfigError) attacks that attackers of defenses at test time do not make."""
    for threat in threats(settings.attacks, settings.protocols):
        if threat.is_adaptive and threat.attack.name == STOCHASTIC:
            raise ConfigError(
                f"{threat.attack} under adaptive: the attackers of defenses at test time take means by themselves; use "
                "pgd (with EVAL.EOT) or an attack of AutoAttack's standard version"
            )
