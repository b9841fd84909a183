"""Steps of AdamW for many samples: a worked example, samples without a finite gradient, and the differentiable form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advpt.prompts.adamw import descend, unroll
from tests.helpers.tiny_clip import DTYPES, vectors


class Given:
    """A loss with the given gradients, one after the other."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = iter(gradients)

    def __call__(self, values: dict[str, Tensor]) -> Tensor:
        return (values["p"] * next(self.gradients)).sum(-1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", (1, 2))
def test_two_steps_of_the_worked_example(dtype: torch.dtype, steps: int) -> None:
    example = vectors("adamw", dtype)
    start = {"p": example["start"][None]}
    wanted = example[f"after_step_{steps}"]
    result, broken = descend(start, Given(example["gradients"]), steps, example["lr"])
    torch.testing.assert_close(result["p"][0], wanted, rtol=DTYPES[dtype]["rtol"], atol=1e-9)
    assert not broken.any() and torch.equal(start["p"][0], example["start"])
    same = unroll(start, Differentiable(example["gradients"]), steps, example["lr"])
    torch.testing.assert_close(same["p"][0].detach(), wanted, rtol=DTYPES[dtype]["rtol"], atol=1e-9)


class Differentiable(Given):
    """As :class:`Given`, with gradients that have a graph."""

    def __call__(self, values: dict[str, Tensor]) -> Tensor:
        return (values["p"] * next(self.gradients).clone().requires_grad_()).sum(-1)


def test_a_sample_without_a_finite_gradient_keeps_its_start() -> None:
    start = {"p": torch.ones(3, 2), "q": torch.zeros(3, 1)}

    def loss(values: dict[str, Tensor]) -> Tensor:
        return (values["p"].square().sum(1) + values["q"].sum(1)) * torch.tensor([1.0, float("nan"), 2.0])

    result, broken = descend(start, loss, 2, 0.1)
    assert broken.tolist() == [False, True, False]
    assert torch.equal(result["p"][1], start["p"][1]) and torch.equal(result["q"][1], start["q"][1])
    assert bool((result["p"][[0, 2]] < 0.9).all()) and bool((result["q"][[0, 2]] < -0.1).all())


def test_backward_the_step_is_a_smooth_sign() -> None:
    a = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    result = unroll({"p": torch.zeros(1, 3, dtype=torch.float64)}, lambda at: (at["p"] * a).sum(-1), 1, 0.1)["p"]
    torch.testing.assert_close(result.detach(), -0.1 * a.detach().sign(), atol=1e-8, rtol=0)
    (gradient,) = torch.autograd.grad(result.sum(), a)
    around = a.detach().abs().mean()
    torch.testing.assert_close(gradient, -0.1 * around / (a.detach().abs() + around) ** 2, rtol=1e-6, atol=0)
