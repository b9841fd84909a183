"""ET3 (CVPR 2026): a few steps down the energy ``-log sum_c exp z_c``, along its gradient divided by its L2 norm.

The sum is over the classes of the task; the paper's has the names of ImageNet-21k. Lengths are those of 224 x 224
pixels and scale with the side of the image, as the L2 length of an equal change per pixel does. The released CLIP code
has an L-infinity ball instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.test_time.base import OWN, TEST_TIME, Cost, Draws, Variant
from advpt.test_time.counter import CounterPerturbation, StepRule, check_ball, climb, l2_direction, plain

SIDE = 224  # of the images whose lengths the settings are


@dataclass(frozen=True)
class ET3Settings:
    """Settings of :class:`ET3`.

    Args:
        eps: the L2 ball, for 224 x 224 pixels in [0, 1]. alpha: the L2 length of a step, likewise.
        steps: their number.
    """

    eps: float = 5.0
    alpha: float = 2.5
    steps: int = 2


@TEST_TIME.add
class ET3(CounterPerturbation):
    """Lowers the energy of an image. Made for robust towers, whose gradients mean something. Deterministic."""

    name = "et3"
    summary = "L2 steps down the energy of the logits (CVPR 2026)"
    profiles = {"sound": ET3Settings()}
    settings: ET3Settings

    @classmethod
    def check(cls, settings: ET3Settings) -> None:
        check_ball(eps=settings.eps, alpha=settings.alpha, steps=settings.steps)

    def rule(self, pixels: Tensor) -> StepRule:
        """Normalised steps, for images of this size."""
        s, scale = self.settings, (pixels.shape[-2] * pixels.shape[-1]) ** 0.5 / SIDE
        return StepRule(s.steps, s.alpha * scale, l2_direction, s.eps * scale, l2=True)

    def delta(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        return self.descend(encode, pixels, unrolled=False)

    def descend(self, encode: Encode, pixels: Tensor, unrolled: bool) -> Tensor:
        """The perturbation; differentiable in the pixels where it is ``unrolled``."""
        start, rule = torch.zeros_like(pixels), self.rule(pixels)
        path = climb(lambda point: -energy(self.logits(encode, point)), pixels, start, rule, unrolled)
        return path.deltas[-1]

    def unrolled(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        """The defense's logits, differentiable through its steps."""
        return self.logits(encode, pixels + self.descend(encode, pixels, unrolled=True))

    def variants(self) -> tuple[Variant, ...]:
        passes = 3 * self.settings.steps + 1
        unrolled = self.variant("unrolled", self.unrolled, OWN, Cost(passes, passes), second_derivative=True)
        return unrolled, self.frozen_delta(), plain(self.model)


def energy(logits: Tensor) -> Tensor:
    """``-log sum_c exp z_c`` of ``logits [b, K]``, ``[b]``."""
    return -logits.logsumexp(-1)
