"""Gradients of attacked pipelines against central differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.helpers.tiny_clip import images


def central_differences(logits: Callable[[Tensor], Tensor], directions: int = 5, h: float = 1e-5) -> None:
    """The gradient of the cross-entropy of ``logits`` of one image along random directions, in float64."""
    x, label = images(1).double().requires_grad_(), torch.tensor([1])
    with sdpa_kernel(SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits(x), label), x)
        assert float(gradient.norm()) > 1e-3
        for seed in range(directions):
            d = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            d = d / d.norm()
            up, down = (F.cross_entropy(logits(x + sign * h * d), label).item() for sign in (1, -1))
            assert (up - down) / (2 * h) == pytest.approx((gradient * d).sum().item(), rel=1e-4, abs=1e-8)
