"""Uniform random noise: the control beside every counter-perturbation, whose random start it is without the steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from advpt.attacks.noise import SampleNoise
from advpt.defenses.base import DEFENSES, Defense, Option
from advpt.errors import DefenseError


@DEFENSES.add
class UniformNoise(Defense):
    """Adds noise to every pixel and channel.

    Args:
        eps: uniform in [-eps, eps], in 1/255; the result is clipped to [0, 1].
    """

    name = "noise"
    summary = "uniform random noise, the control of counter-perturbations"
    draws_noise = True
    linear = True
    profiles = {"uniform": {"eps": 4.0}}

    def __init__(self, *, eps: float = 4.0) -> None:
        self.check({"eps": eps})
        self.eps = float(eps)

    @classmethod
    def check(cls, options: Mapping[str, Option]) -> None:
        if not 0 <= float(options["eps"]) <= 255:
            raise DefenseError(f"eps={options['eps']}: expected 0 to 255, in 1/255")

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"eps": self.eps}

    def apply(self, pixels: Tensor, noise: SampleNoise | None) -> Tensor:
        return pixels + self.needed(noise).uniform(pixels, -self.eps / 255, self.eps / 255)
