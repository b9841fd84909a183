"""What the base class of defenses at test time refuses, and what is drawn. Contracts of every method are in
test_every_defense.py."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.errors import DefenseError
from advpt.test_time.base import Cost, Draws, TestTimeDefense, Variant, twice_differentiable
from tests.helpers.tiny_clip import defended_model, images


@dataclasses.dataclass(frozen=True)
class FixedSettings:
    numbers: tuple[int, ...] = (1, 2)


class Fixed(TestTimeDefense):
    """Gives what it was made with."""

    name = "fixed"
    profiles: ClassVar = {"sound": FixedSettings()}
    gives: Tensor

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        return self.gives

    def variants(self) -> tuple[Variant, ...]:
        raise NotImplementedError

    def cost(self) -> Cost:
        return Cost()


@pytest.fixture
def fixed(tiny_clip) -> Fixed:
    return Fixed(defended_model(tiny_clip), FixedSettings())


@pytest.mark.parametrize(
    ("gives", "says"),
    (
        (torch.zeros(2, 4), r"fixed gave logits \[2, 4\] for 2 images"),
        (torch.zeros(1, 3), r"fixed gave logits \[1, 3\] for 2 images"),
        (torch.tensor([[0, 0, 0], [0, float("nan"), 0]]), "fixed gave logits that are not finite; check its settings"),
        (torch.tensor([[0, 0, 0], [0, float("inf"), 0]]), "fixed gave logits that are not finite"),
    ),
)
def test_logits_of_another_shape_or_not_finite_are_refused(fixed: Fixed, gives: Tensor, says: str) -> None:
    fixed.gives = gives
    with pytest.raises(DefenseError, match=says):
        fixed(images(2), ["a", "b"], True, lambda pixels: pixels)


def test_what_comes_back_has_no_graph_and_tuples_are_lists(fixed: Fixed) -> None:
    fixed.gives = torch.zeros(2, 3, requires_grad=True) * 2
    assert not fixed(images(2), ["a", "b"], True, lambda pixels: pixels).requires_grad
    assert fixed.parameters()["settings"] == {"numbers": [1, 2]} and "seed" not in fixed.parameters()
    assert repr(fixed) == "Fixed(FixedSettings(numbers=(1, 2)), seed=0)"


def test_draws_are_by_key_seed_and_purpose() -> None:
    def numbers(draws: Draws, purpose: str) -> list[list[float]]:
        return [torch.rand(2, generator=generator).tolist() for generator in draws.generators(purpose)]

    one, moved, other = Draws(("a", "b")), Draws(("b", "a")), Draws(("a", "b"), seed=1)
    assert numbers(one, "views") == numbers(moved, "views")[::-1] == numbers(Draws(("a", "b")), "views")
    every = [*numbers(one, "views"), *numbers(one, "weak"), *numbers(other, "views")]
    assert len({tuple(each) for each in every}) == 6
    like = torch.zeros(2, 3, 4, 4)
    assert torch.equal(one.noise("ttc").uniform(like, -1, 1), moved.noise("ttc").uniform(like, -1, 1).flip(0))
    assert not torch.equal(one.noise("ttc").uniform(like, -1, 1), one.noise("hedge").uniform(like, -1, 1))


def test_a_variant_through_a_gradient_has_an_attention_with_a_second_derivative(tiny_clip) -> None:
    """The fused kernel of a float32 tower has none."""
    encode = tiny_clip.require_image()
    enabled: list[bool] = []

    def logits(encode: Any, pixels: Tensor, draws: Draws) -> Tensor:
        enabled.append(torch.backends.cuda.flash_sdp_enabled())
        value = encode(pixels)
        if not value.requires_grad:
            return value
        (gradient,) = torch.autograd.grad(value.square().sum(), pixels, create_graph=True)
        return gradient.flatten(1).sum(1, keepdim=True)

    with torch.enable_grad():
        x = images(2).requires_grad_()
        through = Variant("unrolled", logits, {}, second_derivative=True)
        (gradient,) = torch.autograd.grad(through(encode, x, Draws(("a", "b"))).sum(), x)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
    with torch.no_grad():
        through(encode, x, Draws(("a", "b")))
    assert enabled == [False, True]
    with twice_differentiable():
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
