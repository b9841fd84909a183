"""Defenses applied one after the other, with the gradient that an adaptive attacker follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advpt.attacks.noise import SampleNoise, as_noise
from advpt.defenses.base import Defense, attackable, gradient_of


@dataclass(frozen=True, eq=False)
class Chain:
    """``stages`` applied from left to right; ``text`` is the short text form."""

    text: str
    stages: tuple[Defense, ...]

    @property
    def draws_noise(self) -> bool:
        return any(stage.draws_noise for stage in self.stages)

    def parameters(self, seed: int | None = None) -> list[dict[str, Any]]:
        """The parameters of each stage, as JSON values; random stages have the ``seed`` of their draws."""
        return [
            stage.parameters() | ({"seed": seed} if stage.draws_noise and seed is not None else {})
            for stage in self.stages
        ]

    def __call__(self, pixels: Tensor, generator: SampleNoise | torch.Generator | None = None) -> Tensor:
        """Defended pixels ``[b, 3, h, w]`` in [0, 1]; see :class:`~advpt.defenses.base.Defense`."""
        noise = as_noise(generator, len(pixels)) if generator is not None else None
        for stage in self.stages:
            pixels = stage(pixels, noise)
        return pixels

    def attackable(
        self, pixels: Tensor, generator: SampleNoise | torch.Generator | None = None, *, bpda: bool = False
    ) -> Tensor:
        """The same with a usable gradient, stage by stage."""
        noise = as_noise(generator, len(pixels)) if generator is not None else None
        for stage in self.stages:
            pixels = attackable(stage, pixels, noise, bpda=bpda)
        return pixels

    def gradients(self, bpda: bool = False) -> dict[str, str]:
        """The gradient of each stage, for a record: ``{"1 super": "own", "2 diffpure": "straight through"}``."""
        gradients = {}
        for place, stage in enumerate(self.stages, 1):
            kind = gradient_of(stage, bpda)
            gradients[f"{place} {stage.name}"] = kind + (f" ({stage.gradient_note})" if stage.gradient_note else "")
        return gradients
