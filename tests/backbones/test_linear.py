"""Products of frozen layers against PyTorch's own, bit by bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones import linear as module
from advpt.backbones.linear import BLOCK, ROWS, fast_linear, linear


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("rows", (1, ROWS - 1, ROWS, 1000))
@pytest.mark.parametrize("terms", (64, 128, BLOCK, 256, 384, 512, 768, 1024))
@pytest.mark.parametrize("outputs", (64, 128, 256, 768))
def test_values_and_gradients_are_those_of_the_plain_product(rows: int, terms: int, outputs: int) -> None:
    weight, bias, found = draw(outputs, terms), draw(outputs), []
    for product in (linear, F.linear):
        x = draw(rows, terms).requires_grad_()
        y = product(x, weight, bias)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), x)))
    assert all(torch.equal(one, other) for one, other in zip(*found))


@pytest.mark.parametrize("own", (linear, fast_linear))
def test_a_gradient_of_a_gradient(own: Callable[..., Tensor]) -> None:
    weight, bias, x = draw(64, 128), draw(64), draw(ROWS, 128).requires_grad_()
    seconds = []
    for product in (own, F.linear):
        (first,) = torch.autograd.grad(product(x, weight, bias).pow(3).sum(), x, create_graph=True)
        seconds.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert (seconds[0] - seconds[1]).norm() < 1e-5 * seconds[1].norm()


def test_without_the_other_library_the_plain_product_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_has_the_same_bits", lambda: False)
    monkeypatch.setattr(module, "_by_onednn", None)
    assert torch.equal(linear(draw(ROWS, 128), draw(64, 128)), F.linear(draw(ROWS, 128), draw(64, 128)))


def test_a_trainable_weight_and_autocast_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_by_onednn", None)
    monkeypatch.setattr(module, "onednn_has_the_same_bits", lambda: True)
    x, weight = draw(ROWS, 128), draw(64, 128).requires_grad_()
    (gradient,) = torch.autograd.grad(linear(x, weight).sum(), weight)
    assert gradient.abs().sum() > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight.detach()).dtype == torch.bfloat16


@pytest.mark.parametrize("rows", (1, 83, 1000))
def test_the_fast_product_agrees_to_rounding(rows: int) -> None:
    weight, bias = draw(512, 768), draw(512)
    results = []
    for product in (fast_linear, F.linear):
        x = draw(rows, 768).requires_grad_()
        y = product(x, weight, bias)
        results.append((y.detach(), *torch.autograd.grad(y.square().sum(), x)))
    for one, other in zip(*results):
        assert (one - other).norm() < 1e-5 * other.norm()
    trainable = weight.clone().requires_grad_()
    fast_linear(draw(rows, 768), trainable, bias).sum().backward()
    assert trainable.grad is not None
