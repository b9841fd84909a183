"""ET3: an example worked out by hand, its properties, and the gradient through its steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from advpt.backbones.backbone import Backbone
from advpt.test_time.base import Draws
from advpt.test_time.counter import StepRule, climb, l2_direction
from advpt.test_time.et3 import ET3, ET3Settings, energy
from tests.helpers.float64 import in_float64
from tests.helpers.small_encoders import inner_pixels, linear, slopes, toy
from tests.helpers.tiny_clip import DTYPES, images

# Two classes, embedding (e, 1) with e = w . x and w = (1, -2, 2), |w| = 3, logits s (e, 1) / |(e, 1)| with s = 2.
# The slope of log(exp z_0 + exp z_1) in e is s (p_0 - p_1 e) / |(e, 1)|^3: steps go along +- w / 3 by its sign.
# Step 0.3, ball 0.3, two steps.
#
# First image (0.5, 0.5, 0.5): e = 0.5, D = z_0 - z_1 = 2 (-0.5) / 1.118 = -0.894, p_0 = 0.290, p_1 = 0.710,
#   p_0 - 0.5 p_1 = -0.065: d_1 = (-0.1, 0.2, -0.2), of length 0.3; e = 0.4 - 1.4 + 0.6 = -0.4, p_0 + 0.4 p_1 > 0:
#   the step goes back, d_2 = 0, logits 2 (0.5, 1) / sqrt(1.25).
# Second image (0.9, 0.1, 0.6): e = 0.9 - 0.2 + 1.2 = 1.9, D = 2 (0.9) / 2.147 = 0.838, p_0 = 0.698, p_1 = 0.302,
#   p_0 - 1.9 p_1 = 0.124: (0.1, -0.2, 0.2), in the box (0.1, -0.1, 0.2), of length 0.245.
#   e = 1 - 0 + 1.6 = 2.6, D = 2 (1.6) / 2.786 = 1.149, p_0 = 0.759, p_0 - 2.6 p_1 = 0.133:
#   (0.2, -0.3, 0.4), in the box (0.1, -0.1, 0.4), of length sqrt(0.18); times 0.3 / sqrt(0.18) = 1 / sqrt(2):
#   d_2 = (0.07071068, -0.07071068, 0.28284271); e = 1.9 + 0.07071068 + 0.14142136 + 0.56568542 = 2.67781746,
#   logits 2 (e, 1) / sqrt(1 + e^2), sqrt(8.17070634) = 2.85844474.
WEIGHT, SCALE, DRAWS = [1.0, -2.0, 2.0], 2.0, Draws(("a", "b"))
PIXELS = [[0.5, 0.5, 0.5], [0.9, 0.1, 0.6]]
DELTA = [[0.0, 0.0, 0.0], [0.0707106781, -0.0707106781, 0.2828427125]]
LOGITS = [[0.8944271910, 1.7888543820], [1.8736184888, 0.6996811834]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_example_worked_out_by_hand(dtype: torch.dtype) -> None:
    """Images are 1 x 1, so that lengths for 224 x 224 count 1/224."""
    model, encode = linear(WEIGHT, SCALE, dtype)
    pixels, delta = (torch.tensor(v, dtype=dtype).reshape(2, 3, 1, 1) for v in (PIXELS, DELTA))
    defense = ET3(model, ET3Settings(eps=0.3 * 224, alpha=0.3 * 224))
    torch.testing.assert_close(defense.delta(encode, pixels, DRAWS), delta, **DTYPES[dtype])
    logits = defense(pixels, DRAWS.keys, True, encode)
    torch.testing.assert_close(logits, torch.tensor(LOGITS, dtype=dtype), **DTYPES[dtype])


def test_lengths_scale_with_the_side() -> None:
    model, _, _ = toy()
    defense = ET3(model, ET3Settings())
    for side, factor in ((224, 1), (112, 0.5), (336, 1.5), (32, 1 / 7)):
        rule = defense.rule(torch.zeros(1, 3, side, side))
        assert (rule.radius, rule.size) == pytest.approx((5 * factor, 2.5 * factor))


def test_a_constant_on_all_logits_shifts_the_energy_and_nothing_else() -> None:
    model, encode, pixels = toy()
    z = model.classifier.logits(encode(pixels))
    torch.testing.assert_close(energy(z + 7), energy(z) - 7)
    torch.testing.assert_close(energy(torch.tensor([[1.0, 2.0]])), -torch.tensor([1.0, 2.0]).exp().sum().log()[None])

    class Shifted(ET3):
        def logits(self, encode, pixels):
            return super().logits(encode, pixels) + 7

    settings = ET3Settings(eps=40, alpha=20)
    one, two = (kind(model, settings).delta(encode, pixels, DRAWS) for kind in (ET3, Shifted))
    torch.testing.assert_close(one, two)
    assert float(one.abs().max()) > 0.05


def test_small_steps_lower_the_energy() -> None:
    model, encode, pixels = toy()
    pixels, rule = inner_pixels(pixels), StepRule(20, 1e-3, l2_direction, 1.0, l2=True)
    path = climb(lambda x: -energy(model.classifier.logits(encode(x))), pixels, torch.zeros_like(pixels), rule)
    assert bool((torch.stack(path.values).diff(dim=0) > 0).all())


@pytest.mark.parametrize(("eps", "inside"), [(40.0, True), (10.0, False)])
def test_the_unrolled_gradient_is_that_of_central_differences(eps: float, inside: bool) -> None:
    """Inside the ball and on its surface."""
    model, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    defense = ET3(model, ET3Settings(eps=eps, alpha=8.0))
    size = defense.delta(encode, pixels, DRAWS).flatten(1).norm(dim=1)
    assert bool((size < defense.rule(pixels).radius * 0.99).all()) == inside
    check(defense, encode, pixels)


def test_the_unrolled_gradient_through_a_vision_transformer(tiny_clip: Backbone) -> None:
    model, encode = in_float64(tiny_clip), tiny_clip.require_image()
    with sdpa_kernel(SDPBackend.MATH):
        check(ET3(model, ET3Settings()), encode, inner_pixels(images(2).double()))


def check(defense: ET3, encode, pixels: Tensor) -> None:
    labels = torch.tensor([1, 2])
    unrolled, frozen, plain = defense.variants()
    assert [v.name for v in (unrolled, frozen, plain)] == ["unrolled", "frozen delta", "plain"]
    assert unrolled.second_derivative and not frozen.second_derivative

    def loss(x: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(unrolled.logits(encode, x, DRAWS), labels)

    ours, expected = slopes(loss, pixels)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    x = pixels.clone().requires_grad_()
    constant = torch.nn.functional.cross_entropy(frozen.logits(encode, x, DRAWS), labels)
    torch.testing.assert_close(constant, loss(x))
    first, second = (torch.autograd.grad(value, x)[0] for value in (constant, loss(x)))
    assert not torch.allclose(first, second, rtol=1e-3)
