"""Defenses in an evaluation: which chains on which images, what an adaptive attacker does about them, means over
draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from advpt.bank.defended_input import UNDEFENDED, AdaptiveTarget, DefendedInput, DefenseAwareForward
from advpt.data.images import ImageSet
from advpt.defenses.base import STRAIGHT
from advpt.defenses.chain import Chain
from advpt.defenses.spec import DefenseSpec, parse_all
from advpt.evaluation.protocols import Threat
from advpt.evaluation.statistics import wilson
from advpt.prompts.classifier import Classifier
from advpt.settings import EvalSettings

SMOOTH = "smooth sign"  # how the gradient through tuning at test time is called


def inexact_gradient(defense: Mapping[str, Any] | None) -> str:
    """The words that stand beside a number whose attacker did not follow the gradient of what was attacked, "" where it
    did: a stage passed straight through has the gradient of the identity (BPDA, Athalye et al., ICML 2018), tuning at
    test time that of a smoothed step.

    Args:
        defense: that of a record, as :meth:`Defended.facts` makes it.
    """
    gradient = defense.get("gradient") if isinstance(defense, Mapping) else None
    words = []
    for stage, kind in gradient.items() if isinstance(gradient, Mapping) else ():
        name, text = str(stage).split()[-1:], str(kind)
        if text.startswith(STRAIGHT):
            words.append(f"identity gradient through {''.join(name)}")
        elif STRAIGHT in text:
            words.append(f"identity gradient through the rounding of {''.join(name)}")
        elif SMOOTH in text:
            words.append("smoothed gradient through the tuning")
    return ", ".join(words)


@dataclass(frozen=True, eq=False)
class Defended:
    """One row of a table: a chain of defenses (None: none), seen once per seed of its draws, on these images.

    ``part``: these images are a part that was taken because a defense is costly.
    """

    spec: DefenseSpec | None
    chain: Chain | None
    inputs: tuple[DefendedInput, ...]
    images: ImageSet
    part: bool = False
    tunes: ClassVar[bool] = False  # whether prompts are tuned on every image before it is classified

    @property
    def names(self) -> list[str]:
        """Its stages, for people and for the record's name."""
        return [str(stage) for stage in self.spec.stages] if self.spec is not None else []

    def classifier(self, learned: Classifier) -> Classifier:
        """Who classifies what its banks hold."""
        return learned

    def applies_to(self, threat: Threat) -> bool:
        """Whether it is measured under this threat."""
        return True

    def attack_target(self, threat: Threat, bpda: bool) -> AdaptiveTarget | None:
        """What the attacker attacks through: the chain under ``adaptive``, else nothing but the encoder."""
        if self.chain is None or threat.protocol != "adaptive" or threat.own_network:
            return None
        return DefenseAwareForward(self.chain, bpda)

    def adapt(self, threat: Threat, draws: int) -> Threat:
        """The threat as it is carried out: an adaptive attacker takes means over the draws of a random defense
        (EOT)."""
        if self.chain is None or not self.chain.draws_noise or threat.protocol != "adaptive" or threat.own_network:
            return threat
        attack = threat.attack.with_eot(draws)
        if attack == threat.attack:
            return threat
        note = f"{threat.note}; " if threat.note else ""
        if attack.name != threat.attack.name:
            return dataclasses.replace(
                threat, attack=attack, note=f"{note}{attack.name} for a defense that draws noise"
            )
        return dataclasses.replace(threat, attack=attack, note=f"{note}every gradient a mean over {draws} draws")

    def facts(self, threat: Threat | None, bpda: bool) -> dict[str, Any] | None:
        """For the record: the chain in full, the seeds, and how the attacker differentiated it."""
        if self.spec is None or self.chain is None:
            return None
        attack_target = self.attack_target(threat, bpda) if threat is not None else None
        return {
            "spec": str(self.spec),
            "expanded": self.spec.expanded,
            "stages": self.chain.parameters(),
            "seeds": [each.seed for each in self.inputs],
            "gradient": self.chain.gradients(bpda) if attack_target is not None else None,
        }


def check(settings: EvalSettings) -> list[DefenseSpec]:
    """The chains that the settings ask for, once all their files and packages are known to be there.

    Raises:
        ConfigError, WeightsError, DefenseError: a chain that cannot be read or used.
    """
    chains = parse_all(settings.defenses)
    for chain in chains:
        chain.require()
    return chains


def plan(settings: EvalSettings, images: ImageSet, device: torch.device) -> list[Defended]:
    """No defense and every chain on ``images``; costly chains, and no defense beside them, on a part of the images
    unless ``EVAL.SUBSET`` already says how many."""
    specs = parse_all(settings.defenses)
    some = images if settings.subset else images.first(settings.costly_subset)
    usual = [spec for spec in specs if not (spec.costly and len(some) < len(images))]
    found = [Defended(None, None, (UNDEFENDED,), images)]
    found += [_defended(spec, settings, images, device) for spec in usual]
    if costly := [spec for spec in specs if spec not in usual]:
        found.append(Defended(None, None, (UNDEFENDED,), some, part=True))
        found += [dataclasses.replace(_defended(spec, settings, some, device), part=True) for spec in costly]
    return found


def _defended(spec: DefenseSpec, settings: EvalSettings, images: ImageSet, device: torch.device) -> Defended:
    chain = spec.build(device)
    seeds = range(settings.seed, settings.seed + settings.defense_seeds)
    seen = tuple(DefendedInput(chain, seed) for seed in seeds) if chain.draws_noise else (DefendedInput(chain),)
    return Defended(spec, chain, seen, images)


def over_seeds(parts: Sequence[dict[str, Any]], seen: Sequence[DefendedInput]) -> dict[str, Any]:
    """One part of a record from those of each seed of a random defense: means, the standard deviation of the
    accuracy, and what each seed gave. ``outcome`` and ``interval95`` (of the images at the mean accuracy) are as for
    one seed, the outcome being the first seed's."""
    first = dict(parts[0])
    if len(parts) == 1:
        return first
    values = np.array([part["accuracy"] for part in parts])
    mean = float(values.mean())
    first |= {
        "accuracy": mean,
        "correct": round(mean * first["n"] / 100),
        "interval95": list(wilson(round(mean * first["n"] / 100), first["n"])),
        "deviation": float(values.std(ddof=1)),
        "defense_seeds": [
            {"seed": each.seed, "accuracy": part["accuracy"], "bank": part.get("bank")}
            for each, part in zip(seen, parts)
        ],
    }
    if "lost" in first:
        first["lost"] = float(np.mean([part["lost"] for part in parts]))
    if "on_perturbed" in first:
        on = [part["on_perturbed"] for part in parts]
        hits = round(float(np.mean([part["correct"] for part in on])))
        first["on_perturbed"] = on[0] | {
            "accuracy": float(np.mean([part["accuracy"] for part in on])),
            "correct": hits,
            "interval95": list(wilson(hits, on[0]["n"])) if on[0]["n"] else on[0]["interval95"],
        }
    return first
