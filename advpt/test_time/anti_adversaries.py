"""Anti-Adversaries (Alfarra et al., AAAI 2022): two sign steps that lower the cross-entropy of the predicted class.

The unit of alpha is pixel values here (the paper's 0.15 in [0, 1] is 38.25/255); its other experiments had normalised
ones. ``sound`` keeps images in [0, 1], ``released`` does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.test_time.base import TEST_TIME, Cost, Draws, Variant
from advpt.test_time.counter import (
    SMOOTH,
    CounterPerturbation,
    StepRule,
    check_ball,
    climb,
    plain,
    sign_with_smooth_gradient,
)


@dataclass(frozen=True)
class AntiAdversariesSettings:
    """Settings of :class:`AntiAdversaries`.

    Args:
        alpha: of a step, in 1/255. steps: their number.
        eps: the ball, in 1/255; 255 is none within [0, 1].
        clip: images stay in [0, 1].
    """

    alpha: float = 38.25
    steps: int = 2
    eps: float = 255.0
    clip: bool = True


@TEST_TIME.add
class AntiAdversaries(CounterPerturbation):
    """Moves an image away from the decision boundary of its predicted class. Deterministic."""

    name = "anti-adversaries"
    summary = "sign steps towards the predicted class (Alfarra et al., AAAI 2022)"
    profiles = {"sound": AntiAdversariesSettings(), "released": AntiAdversariesSettings(clip=False)}
    settings: AntiAdversariesSettings

    @classmethod
    def check(cls, settings: AntiAdversariesSettings) -> None:
        check_ball(alpha=settings.alpha, steps=settings.steps, eps=settings.eps)

    @property
    def rule(self) -> StepRule:
        """Sign steps of alpha."""
        s = self.settings
        return StepRule(s.steps, s.alpha / 255, torch.sign, s.eps / 255, box=s.clip)

    def delta(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        return self.towards_prediction(encode, pixels, self.rule)

    def towards_prediction(self, encode: Encode, pixels: Tensor, rule: StepRule, unrolled: bool = False) -> Tensor:
        """The perturbation of :func:`advpt.test_time.counter.climb` on the log probability of the class that the first
        pass predicts."""
        predicted: list[Tensor] = []

        def objective(point: Tensor) -> Tensor:
            logits = self.logits(encode, point)
            if not predicted:
                predicted.append(logits.detach().argmax(-1))
            return log_probability(logits, predicted[0])

        return climb(objective, pixels, torch.zeros_like(pixels), rule, unrolled).deltas[-1]

    def unrolled(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        """The defense's logits, differentiable through its steps with the derivative of a smooth sign."""
        s = self.settings
        rule = StepRule(s.steps, s.alpha / 255, sign_with_smooth_gradient, s.eps / 255, box=s.clip)
        return self.logits(encode, pixels + self.towards_prediction(encode, pixels, rule, unrolled=True))

    def variants(self) -> tuple[Variant, ...]:
        passes = 3 * self.settings.steps + 1
        smooth = self.variant("smooth sign", self.unrolled, SMOOTH, Cost(passes, passes), second_derivative=True)
        return self.frozen_delta(), smooth, plain(self.model)


def log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """``log p`` of the class ``labels [b]`` under ``logits [b, K]``: minus the cross-entropy, ``[b]``."""
    return logits.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
