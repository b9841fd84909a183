"""Test-time tuning in an evaluation: a row beside that of the learned prompts, and the attackers of it. ``static``
attacks the learned prompts and knows nothing of the tuning (what TAPT's authors measure); ``tuned`` attacks through the
prompts that the tuning makes of the clean image, with the evaluation's own views; ``adaptive`` differentiates through
the tuning itself, with views of its own, and takes means over them (EOT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advpt.attacks.base import ATTACKS
from advpt.attacks.noise import SampleNoise
from advpt.bank.defended_input import AdaptiveTarget, DefendedInput, Encode
from advpt.data.images import ImageSet
from advpt.errors import AttackError, ConfigError
from advpt.evaluation.defended import SMOOTH, EvaluationRow, noted
from advpt.evaluation.protocols import Threat, threats
from advpt.evaluation.record import DefenseFacts
from advpt.schema import JsonObject
from advpt.settings import EvalSettings
from advpt.test_time.base import Cost, twice_differentiable
from advpt.tuning.tapt import TAPT
from advpt.tuning.test_time import Tuner

GRADIENT = {
    "tuned": "through the prompts found on the clean image",
    "adaptive": f"through views and steps, AdamW's step as a {SMOOTH}",
}


@dataclass(frozen=True, eq=False)
class TunedTarget:
    """The attack target of an attacker who knows that prompts are tuned at test time."""

    tuner: Tuner
    protocol: str
    gives_logits: ClassVar[bool] = True
    start: ClassVar[None] = None

    @property
    def by_image(self) -> bool:
        return self.protocol == "tuned"  # the views of an adaptive attacker are drawn for a whole batch

    def encoder(self, encode: Encode, ids: Sequence[str], seed: int, clean: Tensor) -> Encode:
        """Pixels of all these images to their logits."""
        if self.protocol == "tuned":
            views = self.tuner.views(clean, ids)
            values = self.tuner.tune(views, ids=ids) if self.tuner.config.steps else self.tuner.untouched(len(ids))
            return lambda pixels: self.tuner.attackable(values, self._all(pixels, ids))
        generator = torch.Generator().manual_seed(SampleNoise([f"attacker {name}" for name in ids], seed).batch_seed)

        def forward(pixels: Tensor) -> Tensor:
            view_seed = int(torch.randint(2**31, (), generator=generator))
            if not torch.is_grad_enabled():
                return self.tuner.unrolled(self._all(pixels, ids), ids, view_seed)
            with twice_differentiable():
                return self.tuner.unrolled(self._all(pixels, ids), ids, view_seed)

        return forward

    def _all(self, pixels: Tensor, ids: Sequence[str]) -> Tensor:
        if len(pixels) != len(ids):
            gave = f"this one gave {len(pixels)} of {len(ids)}"
            raise AttackError(f"an attack through test-time tuning looks at all images of a batch at once; {gave}")
        return pixels

    def parameters(self) -> JsonObject:
        return {"tuner": self.tuner.parameters(), "knows": self.protocol}


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuned(EvaluationRow):
    """The images with prompts tuned on each of them. Made by :func:`rows`.

    Args:
        beside: the row is a variant of another one, which alone is measured under attackers who know the tuning.
    """

    defense: TAPT
    beside: bool = False

    @property
    def tuner(self) -> Tuner:
        return self.defense.tuner

    def applies_to(self, threat: Threat) -> bool:
        return super().applies_to(threat) and not (self.beside and _knows_tuning(threat))

    def cost(self) -> Cost:
        return self.defense.cost()

    def attack_target(self, threat: Threat, bpda: bool) -> AdaptiveTarget | None:
        return TunedTarget(self.tuner, threat.protocol) if _knows_tuning(threat) else None

    def adapt(self, threat: Threat, draws: int) -> Threat:
        if not threat.is_adaptive:
            return threat
        return noted(threat, threat.attack.with_eot(draws), f"every gradient a mean over {draws} draws of views")

    def facts(self, threat: Threat | None, bpda: bool) -> DefenseFacts | None:
        name, stages = self.tuner.name, (self.tuner.parameters(),)
        gradient = {name: GRADIENT[threat.protocol]} if threat is not None and _knows_tuning(threat) else None
        return DefenseFacts(spec=name, expanded=name, stages=stages, seeds=(None,), gradient=gradient)


def rows(tuners: Sequence[Tuner], images: ImageSet, settings: str, kind: type[TAPT] = TAPT) -> list[Tuned]:
    """A row for each tuner on these images. ``settings``: the node that has the tuning's. ``kind``: of the defense."""
    made = []
    for i, tuner in enumerate(tuners):
        defense = kind(tuner)
        names, inputs = (tuner.name,), (DefendedInput(reader=defense),)
        made.append(
            Tuned(images=images, names=names, inputs=inputs, tuning_settings=settings, defense=defense, beside=i > 0)
        )
    return made


def check(settings: EvalSettings) -> None:
    """Refuse (ConfigError) attacks that look at parts of a batch under a protocol whose attacker knows the tuning."""
    for threat in threats(settings.attacks, settings.protocols):
        if _knows_tuning(threat) and not ATTACKS.get(threat.attack.name).whole_batches:
            raise ConfigError(
                f"{threat.attack} under {threat.protocol} cannot go through prompts that differ from image to image; "
                f"use pgd under {threat.protocol}, and {threat.attack}:static for the attacker who does not know the "
                "tuning"
            )


def _knows_tuning(threat: Threat) -> bool:
    return threat.protocol in GRADIENT and not threat.own_network
