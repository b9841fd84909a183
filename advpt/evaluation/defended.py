"""Defenses in an evaluation: which chains on which images, what an adaptive attacker does about them, means over
draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from advpt.attacks.spec import AttackSpec
from advpt.bank.defended_input import UNDEFENDED, AdaptiveTarget, DefendedInput, DefenseAwareForward
from advpt.data.images import ImageSet
from advpt.defenses.base import STRAIGHT
from advpt.defenses.chain import Chain
from advpt.defenses.spec import DefenseSpec, parse_all
from advpt.evaluation.intervals import wilson
from advpt.evaluation.protocols import Threat
from advpt.evaluation.record import Accuracy, CleanAccuracy, DefenseFacts, DrawAccuracy, RobustAccuracy
from advpt.settings import EvalSettings
from advpt.test_time.base import Cost, Variant

Part = TypeVar("Part", bound=Accuracy)
Clean = TypeVar("Clean", bound=CleanAccuracy)
SMOOTH = "smooth sign"  # name of the gradient through tuning at test time


def inexact_gradient(defense: DefenseFacts | None) -> str:
    """The words that stand beside a number whose attacker did not follow the gradient of what was attacked, "" where it
    did: a stage passed straight through has the gradient of the identity (BPDA, Athalye et al., ICML 2018), tuning at
    test time that of a smoothed step."""
    words = []
    for stage, kind in (defense.gradient or {}).items() if defense is not None else ():
        name = stage.partition(",")[0].split()[-1]  # without the variant of a defense at test time
        if kind.startswith(STRAIGHT):
            words.append(f"identity gradient through {name}")
        elif STRAIGHT in kind:
            words.append(f"identity gradient through the rounding of {name}")
        elif SMOOTH in kind:
            words.append("smoothed gradient through the tuning")
    return ", ".join(dict.fromkeys(words))


@dataclass(frozen=True, eq=False)
class AttackPart:
    """One attack of an attacker who tries several.

    Args:
        name: what it differentiates and where it starts.
        threat: with the attack that is carried out. target: what it goes through, None for the undefended model.
        left: it attacks only the images that the parts before left correct.
        variant: the gradient that it follows, whose size is measured.
    """

    name: str
    threat: Threat
    target: AdaptiveTarget | None
    left: bool = False
    variant: Variant | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationRow:
    """One row of results: images without a defense. Subclasses put something before the classifier.

    Args:
        names: the stages before the classifier. inputs: of its banks, one for each draw of a random defense.
        part: the images are a part, taken because a defense or its attackers are costly.
        protocols: those that the row is measured under; None: all.
        tuning_settings: node of the settings by which prompts are tuned on every image, "" where they are not.
    """

    images: ImageSet
    names: tuple[str, ...] = ()
    inputs: tuple[DefendedInput, ...] = (UNDEFENDED,)
    part: bool = False
    tuning_settings: str = ""
    protocols: tuple[str, ...] | None = None

    def applies_to(self, threat: Threat) -> bool:
        """Whether the row is measured under this threat."""
        return self.protocols is None or threat.protocol in self.protocols

    def parts(self, threat: Threat, settings: EvalSettings) -> tuple[AttackPart, ...]:
        """The attacks of which the threat is the worst for each image; none where it is a single one."""
        return ()

    def cost(self) -> Cost:
        """Passes per image."""
        return Cost()

    @property
    def depends_on_batch(self) -> bool:
        """Whether an image's answer depends on those beside it."""
        return False

    @property
    def counts_votes(self) -> bool:
        """Whether logits are counts, which two images may well have in common."""
        return False

    def attack_target(self, threat: Threat, bpda: bool) -> AdaptiveTarget | None:
        """What the attacker differentiates besides the encoder."""
        return None

    def adapt(self, threat: Threat, draws: int) -> Threat:
        """The threat as it is carried out: an adaptive attacker of something random takes means over ``draws`` draws
        (EOT)."""
        return threat

    def knowledge(self, threat: Threat) -> str:
        """What the attacker knows, in words."""
        return threat.knows

    def facts(self, threat: Threat | None, bpda: bool) -> DefenseFacts | None:
        """The stages in full, their seeds, and the gradient that the attacker followed, for a record."""
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Defended(EvaluationRow):
    """The images behind a chain of defenses."""

    spec: DefenseSpec
    chain: Chain

    def attack_target(self, threat: Threat, bpda: bool) -> AdaptiveTarget | None:
        return DefenseAwareForward(self.chain, bpda) if threat.is_adaptive else None

    def adapt(self, threat: Threat, draws: int) -> Threat:
        if not self.chain.draws_noise or not threat.is_adaptive:
            return threat
        attack, note = threat.attack.with_eot(draws), f"every gradient a mean over {draws} draws"
        if attack == threat.attack:
            return threat
        if attack.name != threat.attack.name:
            note = f"{attack.name} for a defense that draws noise"
        return noted(threat, attack, note)

    def knowledge(self, threat: Threat) -> str:
        if threat.own_network:
            return threat.knows
        return f"{threat.knows}, and the defense" if threat.is_adaptive else f"{threat.knows}; not the defense"

    def facts(self, threat: Threat | None, bpda: bool) -> DefenseFacts | None:
        return DefenseFacts(
            spec=str(self.spec),
            expanded=self.spec.expanded,
            stages=tuple(self.chain.parameters()),
            seeds=tuple(each.seed for each in self.inputs),
            gradient=self.chain.gradients(bpda) if threat is not None and threat.is_adaptive else None,
        )


def noted(threat: Threat, attack: AttackSpec, note: str) -> Threat:
    """The threat with another attack, and a note that says why."""
    return dataclasses.replace(threat, attack=attack, note=f"{threat.note}; {note}" if threat.note else note)


def check(settings: EvalSettings) -> list[DefenseSpec]:
    """Parse the chains of the settings and require all their files and packages (ConfigError, WeightsError,
    DefenseError)."""
    chains = parse_all(settings.defenses)
    for chain in chains:
        chain.require()
    return chains


def plan(settings: EvalSettings, images: ImageSet, device: torch.device) -> list[EvaluationRow]:
    """No defense and every chain on ``images``; costly chains, and no defense beside them, on a part of the images
    unless ``EVAL.SUBSET`` already says how many."""
    specs = parse_all(settings.defenses)
    some = images if settings.subset else images.first(settings.costly_subset)
    costly = [spec for spec in specs if spec.costly and len(some) < len(images)]
    rows = [EvaluationRow(images=images)]
    rows += [_defended(spec, settings, images, device) for spec in specs if spec not in costly]
    if costly:
        rows.append(EvaluationRow(images=some, part=True))
        rows += [dataclasses.replace(_defended(spec, settings, some, device), part=True) for spec in costly]
    return rows


def _defended(spec: DefenseSpec, settings: EvalSettings, images: ImageSet, device: torch.device) -> Defended:
    chain = spec.build(device)
    seeds = range(settings.seed, settings.seed + settings.defense_seeds)
    inputs = tuple(DefendedInput(chain, seed) for seed in seeds) if chain.draws_noise else (DefendedInput(chain),)
    names = tuple(str(stage) for stage in spec.stages)
    return Defended(images=images, names=names, inputs=inputs, spec=spec, chain=chain)


def mean_over_draws(parts: Sequence[Clean], draws: Sequence[DefendedInput]) -> Clean:
    """The accuracy behind a random defense: means over its draws, the standard deviation, and what each draw gave.

    ``outcome`` is the first draw's, ``interval95`` that of the images at the mean accuracy.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    accuracies = [part.accuracy for part in parts]
    accuracy = float(np.mean(accuracies))
    seeds = [
        DrawAccuracy(seed=draw.draw_seed, accuracy=part.accuracy, bank=part.bank) for draw, part in zip(draws, parts)
    ]
    mean = dataclasses.replace(
        _at(first, accuracy, round(accuracy * first.n / 100)),
        deviation=float(np.std(accuracies, ddof=1)),
        defense_seeds=tuple(seeds),
    )
    robust = [part for part in parts if isinstance(part, RobustAccuracy)]
    others = [part.on_perturbed for part in robust if part.on_perturbed is not None]
    if not isinstance(mean, RobustAccuracy) or not others:
        return mean
    accuracy = float(np.mean([part.accuracy for part in others]))
    on_perturbed = _at(others[0], accuracy, round(float(np.mean([part.correct for part in others]))))
    return dataclasses.replace(mean, lost=float(np.mean([part.lost for part in robust])), on_perturbed=on_perturbed)


def _at(part: Part, accuracy: float, correct: int) -> Part:
    """The same images at another accuracy."""
    return dataclasses.replace(part, accuracy=accuracy, correct=correct, interval95=wilson(correct, part.n))
