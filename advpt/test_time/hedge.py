"""Hedge Defense (Wu et al., 2021): from a random start, 20 sign steps that raise the cross-entropy of all classes.

The start is clipped to [0, 1], which the released code does not do; nothing is decided by labels, which its evaluation
does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.test_time.base import TEST_TIME, Draws, Variant
from advpt.test_time.counter import CounterPerturbation, StepRule, check_ball, climb, plain


@dataclass(frozen=True)
class HedgeSettings:
    """Settings of :class:`Hedge`.

    Args:
        eps: the ball, in 1/255. step: of one step, in 1/255 (0.007 in [0, 1]). steps: their number.
    """

    eps: float = 8.0
    step: float = 1.785
    steps: int = 20


@TEST_TIME.add
class Hedge(CounterPerturbation):
    """Attacks all classes at once, which moves the least certain ones most."""

    name = "hedge"
    summary = "sign steps against all classes at once (Wu et al., 2021)"
    profiles = {"sound": HedgeSettings()}
    settings: HedgeSettings

    @classmethod
    def check(cls, settings: HedgeSettings) -> None:
        check_ball(eps=settings.eps, step=settings.step, steps=settings.steps)

    @property
    def draws_noise(self) -> bool:
        return self.settings.eps > 0

    @property
    def rule(self) -> StepRule:
        """Sign steps in the ball."""
        s = self.settings
        return StepRule(s.steps, s.step / 255, torch.sign, s.eps / 255)

    def delta(self, encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
        start = draws.noise("hedge").uniform(pixels, -self.rule.radius, self.rule.radius)
        path = climb(lambda point: against_all(self.logits(encode, point)), pixels, start, self.rule)
        return path.deltas[-1]

    def variants(self) -> tuple[Variant, ...]:
        return self.frozen_delta(), plain(self.model)


def against_all(logits: Tensor) -> Tensor:
    """``-sum_c log p_c`` of ``logits [b, K]``, ``[b]``: K times the cross-entropy of the uniform distribution."""
    return -logits.log_softmax(-1).sum(-1)
