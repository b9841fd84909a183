"""Encoders whose embeddings can be worked out, as test-time defenses get them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.test_time.base import DefendedModel, Draws
from tests.helpers.tiny_clip import toy_model, vectors


def toy(dtype: torch.dtype = torch.float64) -> tuple[DefendedModel, Encode, Tensor]:
    """The model, encoder ``A v + (B v)^2`` and two images 3 x 2 x 2 of the worked examples."""
    given, inputs = vectors("toy_encoder", dtype), vectors("inputs", dtype)
    a, b = given["A"].T, given["B"].T

    def encode(pixels: Tensor) -> Tensor:
        v = pixels.flatten(1)
        return v @ a + (v @ b).square()

    return toy_model(inputs["text_raw"], inputs["scale"]), encode, given["pixels"]


def inner_pixels(pixels: Tensor) -> Tensor:
    """The images with less contrast, so that no pixel is at the border of [0, 1]."""
    return 0.3 + 0.4 * pixels


def linear(weight: list[float], scale: float, dtype: torch.dtype) -> tuple[DefendedModel, Encode]:
    """Two classes with text features (1, 0) and (0, 1), and the embedding (w . x, 1)."""
    w = torch.tensor(weight, dtype=dtype)

    def encode(pixels: Tensor) -> Tensor:
        first = pixels.flatten(1) @ w
        return torch.stack([first, torch.ones_like(first)], -1)

    return toy_model(torch.eye(2, dtype=dtype), scale), encode


class GivenDraws(Draws):
    """Draws whose noise is given: the images' keys in their order do not matter."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__(tuple(str(i) for i in range(len(noise))))
        object.__setattr__(self, "given", noise)

    def noise(self, purpose: str) -> Any:
        return self

    def uniform(self, like: Tensor, low: float, high: float) -> Tensor:
        """The given noise, which must lie between ``low`` and ``high``."""
        given: Tensor = self.given  # type: ignore[attr-defined]
        assert low <= given.min() and given.max() <= high
        return given.to(like)


def slopes(value: Callable[[Tensor], Tensor], at: Tensor, n: int = 5, h: float = 1e-5) -> tuple[Tensor, Tensor]:
    """The gradient of ``value`` (a number) along ``n`` random directions, and central differences, both ``[n]``."""
    directions = torch.randn(n, *at.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    point = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(point), point)
    with torch.no_grad():
        differences = [(value(at + h * d) - value(at - h * d)) / (2 * h) for d in directions]
    return (directions * gradient).flatten(1).sum(1), torch.stack(differences)
