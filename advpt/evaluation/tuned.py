"""Test-time tuning in an evaluation: a row of its own beside the prompts as they were learned, and who attacks it.

Three attackers, as far as they know more than the hand-written prompt: ``static`` attacks the learned prompts and knows
nothing of the tuning (what TAPT's authors measure); ``tuned`` attacks through the prompts that the tuning makes of the
clean image, with the evaluation's own views; ``adaptive`` differentiates through the tuning itself, with views of its
own, and takes means over them (EOT).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from advpt.attacks.noise import SampleNoise
from advpt.attacks.spec import AttackSpec
from advpt.bank.defended_input import AdaptiveTarget, DefendedInput, Encode
from advpt.data.images import ImageSet
from advpt.errors import AttackError, ConfigError
from advpt.evaluation.defended import SMOOTH, Defended
from advpt.evaluation.protocols import Threat, threats
from advpt.evaluation.record import DefenseFacts
from advpt.prompts.classifier import Classifier
from advpt.schema import JsonObject
from advpt.settings import EvalSettings
from advpt.tuning.test_time import Tuner

_ONE_AT_A_TIME = threading.Lock()  # the choice of a kernel is the process's
GRADIENT = {
    "tuned": "through the prompts found on the clean image",
    "adaptive": f"through views and steps, AdamW's step as a {SMOOTH}",
}


@dataclass(frozen=True, eq=False)
class AsLogits(Classifier):
    """What banks of logits are read with: they are the answer."""

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings


@dataclass(frozen=True, eq=False)
class AtTuned:
    """What an attacker who knows the tuning attacks (:class:`~advpt.bank.defended_input.AdaptiveTarget`)."""

    tuner: Tuner
    protocol: str

    @property
    def by_image(self) -> bool:
        return self.protocol == "tuned"  # the views of an adaptive attacker are drawn for a whole batch

    def encoder(self, encode: Encode, ids: Sequence[str], seed: int, clean: Tensor) -> Encode:
        """Pixels of all these images to their logits."""
        if self.protocol == "tuned":
            views = self.tuner.views(clean, ids)
            values = self.tuner.tune(views, ids=ids) if self.tuner.config.steps else self.tuner.untouched(len(ids))
            return lambda pixels: self.tuner.attackable(values, self._all(pixels, ids))
        draws = torch.Generator().manual_seed(SampleNoise([f"attacker {name}" for name in ids], seed).batch_seed)

        def forward(pixels: Tensor) -> Tensor:
            view_seed = int(torch.randint(2**31, (), generator=draws))
            if not torch.is_grad_enabled():
                return self.tuner.unrolled(self._all(pixels, ids), ids, view_seed)
            with _ONE_AT_A_TIME, sdpa_kernel(SDPBackend.MATH):  # the only one with a second derivative
                return self.tuner.unrolled(self._all(pixels, ids), ids, view_seed)

        return forward

    def _all(self, pixels: Tensor, ids: Sequence[str]) -> Tensor:
        if len(pixels) != len(ids):
            raise AttackError(
                f"an attack through test-time tuning looks at all images of a batch at once; this one gave "
                f"{len(pixels)} of {len(ids)}"
            )
        return pixels

    def parameters(self) -> JsonObject:
        return {"tuner": self.tuner.parameters(), "knows": self.protocol}


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuned(Defended):
    """A row of results: the prompts tuned on every image. Made by :func:`rows`. ``beside``: it stands beside
    another row, as its authors measured it; attackers who know the tuning are left to that one."""

    tuner: Tuner
    beside: bool = False
    tunes: ClassVar[bool] = True

    @property
    def names(self) -> list[str]:
        return [self.tuner.name]

    def classifier(self, learned: Classifier) -> Classifier:
        return AsLogits(learned.features, learned.scale, visual=learned.visual)

    def applies_to(self, threat: Threat) -> bool:
        return not (self.beside and _knows_tuning(threat))

    def attack_target(self, threat: Threat, bpda: bool) -> AdaptiveTarget | None:
        return AtTuned(self.tuner, threat.protocol) if _knows_tuning(threat) else None

    def adapt(self, threat: Threat, draws: int) -> Threat:
        if threat.protocol != "adaptive" or threat.own_network:
            return threat
        attack = threat.attack.with_eot(draws)
        note = f"{threat.note}; " if threat.note else ""
        return dataclasses.replace(
            threat, attack=attack, note=f"{note}every gradient a mean over {draws} draws of views"
        )

    def facts(self, threat: Threat | None, bpda: bool) -> DefenseFacts | None:
        gradient = None
        if threat is not None and _knows_tuning(threat):
            gradient = {self.tuner.name: GRADIENT[threat.protocol]}
        return DefenseFacts(
            spec=self.tuner.name,
            expanded=self.tuner.name,
            stages=(self.tuner.parameters(),),
            seeds=(None,),
            gradient=gradient,
        )


def rows(tuners: Sequence[Tuner], images: ImageSet) -> list[Tuned]:
    """A row for each tuner on these images."""
    return [Tuned(None, None, (DefendedInput(reader=t),), images, tuner=t, beside=i > 0) for i, t in enumerate(tuners)]


def check(settings: EvalSettings) -> None:
    """Refuse attacks that cannot go through test-time tuning.

    Raises:
        ConfigError: an attack that looks at parts of a batch, under a protocol whose attacker knows the tuning.
    """
    for threat in threats(settings.attacks, settings.protocols):
        if _knows_tuning(threat) and not _whole_batches(threat.attack):
            raise ConfigError(
                f"{threat.attack} under {threat.protocol} cannot go through prompts that differ from image to image; "
                f"use pgd under {threat.protocol}, and {threat.attack}:static for the attacker who does not know the "
                "tuning"
            )


def _knows_tuning(threat: Threat) -> bool:
    return threat.protocol in GRADIENT and not threat.own_network


def _whole_batches(attack: AttackSpec) -> bool:
    return attack.name == "pgd"
