"""Hedge Defense: an example worked out by hand, and its properties."""

from __future__ import annotations

import pytest
import torch

from advpt.test_time.base import Draws
from advpt.test_time.counter import StepRule, climb
from advpt.test_time.hedge import Hedge, HedgeSettings, against_all
from tests.helpers.small_encoders import GivenDraws, inner_pixels, linear, toy
from tests.helpers.tiny_clip import DTYPES

# Two classes, embedding (e, 1) with e = w . x and w = (1, -1, 2), logits s (e, 1) / |(e, 1)| with s = 3.
# With D = z_0 - z_1 = s (e - 1) / |(e, 1)| the objective is log(1 + exp(D)) + log(1 + exp(-D)), its slope in D is
# tanh(D / 2), and that of D in e is s (1 + e) / |(e, 1)|^3 > 0 for e > -1: every pixel moves by step * sign(D) sign(w).
# eps 0.04, step 0.03, two steps.
#
# First image (0.5, 0.5, 0.02), noise (0.01, -0.02, -0.03); the box makes it (0.01, -0.02, -0.02).
#   e = 0.51 - 0.48 + 0 = 0.03 < 1, D < 0, direction (-, +, -)
#   d_1 = (-0.02, 0.01, -0.05 -> -0.02 by the box); e = 0.48 - 0.51 + 0 = -0.03 < 1, the same direction
#   d_2 = (-0.05 -> -0.04 by the ball, 0.04, -0.02); e = 0.46 - 0.54 + 0 = -0.08
# Second image (0.9, 0.1, 0.4), noise (0.02, 0.02, 0).
#   e = 0.92 - 0.12 + 0.8 = 1.6 > 1, D > 0, direction (+, -, +)
#   d_1 = (0.05 -> 0.04 by the ball, -0.01, 0.03); e = 0.94 - 0.09 + 0.86 = 1.71 > 1, the same direction
#   d_2 = (0.04, -0.04, 0.04); e = 0.94 - 0.06 + 0.88 = 1.76
WEIGHT, SCALE = [1.0, -1.0, 2.0], 3.0
PIXELS = [[0.5, 0.5, 0.02], [0.9, 0.1, 0.4]]
NOISE = [[0.01, -0.02, -0.03], [0.02, 0.02, 0.0]]
DELTA = [[-0.04, 0.04, -0.02], [0.04, -0.04, 0.04]]
E = [-0.08, 1.76]
LOGITS = [[-0.2392356668, 2.9904458356], [2.6083696722, 1.4820282228]]  # 3 (e, 1) / sqrt(1 + e^2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_example_worked_out_by_hand(dtype: torch.dtype) -> None:
    model, encode = linear(WEIGHT, SCALE, dtype)
    pixels, noise, delta = (torch.tensor(v, dtype=dtype).reshape(2, 3, 1, 1) for v in (PIXELS, NOISE, DELTA))
    defense, draws = Hedge(model, HedgeSettings(eps=0.04 * 255, step=0.03 * 255, steps=2)), GivenDraws(noise)
    torch.testing.assert_close(defense.delta(encode, pixels, draws), delta, **DTYPES[dtype])
    logits = defense.shifted(encode, pixels, draws)
    torch.testing.assert_close(encode(pixels + delta)[:, 0], torch.tensor(E, dtype=dtype), **DTYPES[dtype])
    torch.testing.assert_close(logits, torch.tensor(LOGITS, dtype=dtype), **DTYPES[dtype])


def test_the_objective_is_the_sum_over_classes() -> None:
    """Of the probabilities 1/2, 1/4, 1/4: log 2 + 2 log 4 = 5 log 2; and its slope is K p_c - 1."""
    p = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    z = p.log().add(3.0).requires_grad_()
    value = against_all(z)
    assert value.item() == pytest.approx(5 * 0.6931471805599453)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    torch.testing.assert_close(gradient, 3 * p - 1)


def test_small_steps_raise_the_objective_and_without_steps_it_is_random_noise() -> None:
    model, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    rule = StepRule(20, 1e-3, torch.sign, 1.0)
    path = climb(lambda x: against_all(model.classifier.logits(encode(x))), pixels, torch.zeros_like(pixels), rule)
    assert bool((torch.stack(path.values).diff(dim=0) > 0).all())
    defense, draws = Hedge(model, HedgeSettings(steps=0)), Draws(("a", "b"))
    noise = draws.noise("hedge").uniform(pixels, -8 / 255, 8 / 255)
    expected = model.classifier.logits(encode(pixels + noise))
    torch.testing.assert_close(defense(pixels, draws.keys, True, encode), expected)
