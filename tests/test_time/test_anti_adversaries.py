"""Anti-Adversaries: the worked example, its properties, and why an attacker who differentiates it is weak."""

from __future__ import annotations

import pytest
import torch

from advpt.test_time.anti_adversaries import AntiAdversaries, AntiAdversariesSettings, log_probability
from advpt.test_time.base import Draws
from advpt.test_time.counter import StepRule, climb, sign_with_smooth_gradient, smooth_sign
from tests.helpers.small_encoders import inner_pixels, slopes, toy
from tests.helpers.tiny_clip import DTYPES, vectors

DRAWS = Draws(("a", "b"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_worked_example(dtype: torch.dtype) -> None:
    """As released: no box."""
    (model, encode, pixels), about = toy(dtype), vectors("anti_adversary", dtype)
    settings = AntiAdversariesSettings(alpha=255 * about["alpha"], steps=about["k"], clip=False)
    defense = AntiAdversaries(model, settings)
    assert model.classifier.logits(encode(pixels)).argmax(-1).tolist() == about["pseudo_label"].tolist()
    torch.testing.assert_close(defense.delta(encode, pixels, DRAWS), about["delta"], **DTYPES[dtype])
    torch.testing.assert_close(defense(pixels, DRAWS.keys, True, encode), about["logits"], **DTYPES[dtype])


def test_steps_are_multiples_of_alpha_and_lower_the_cross_entropy_of_the_prediction() -> None:
    model, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    defense = AntiAdversaries(model, AntiAdversariesSettings(alpha=2.0, steps=3))
    multiples = defense.delta(encode, pixels, DRAWS) * 255 / 2
    torch.testing.assert_close(multiples, multiples.round(), atol=1e-9, rtol=0)
    assert float(multiples.abs().max()) == pytest.approx(3)
    before = model.classifier.logits(encode(pixels))
    labels = before.argmax(-1)
    rule = StepRule(20, 1e-3, torch.sign, 1.0)
    path = climb(
        lambda x: log_probability(model.classifier.logits(encode(x)), labels), pixels, torch.zeros_like(pixels), rule
    )
    assert bool((torch.stack(path.values).diff(dim=0) > 0).all())


def test_the_prediction_of_the_first_pass_is_kept() -> None:
    """Steps so large that the second pass predicts another class do not change the objective."""
    model, encode, pixels = toy()
    predicted = model.classifier.logits(encode(pixels)).argmax(-1)
    defense = AntiAdversaries(model, AntiAdversariesSettings(alpha=200.0, steps=4, clip=False))
    expected = climb(
        lambda x: log_probability(model.classifier.logits(encode(x)), predicted),
        pixels, torch.zeros_like(pixels), defense.rule,
    ).deltas  # fmt: skip
    passed = [model.classifier.logits(encode(pixels + d)).argmax(-1) for d in expected]
    assert any(not torch.equal(p, predicted) for p in passed), "otherwise this test shows nothing"
    assert torch.equal(defense.delta(encode, pixels, DRAWS), expected[-1])


def test_the_frozen_delta_gradient_is_that_of_the_plain_model_at_the_shifted_point() -> None:
    """The attacker learns nothing of the defense, and the shifted point is further from the boundary: under the loss of
    the prediction its gradient is smaller there."""
    model, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    defense = AntiAdversaries(model, AntiAdversariesSettings(alpha=4.0))
    labels = model.classifier.logits(encode(pixels)).argmax(-1)
    x = pixels.clone().requires_grad_()
    frozen = defense.variants()[0]
    loss = -log_probability(frozen.logits(encode, x, DRAWS), labels).sum()
    (through,) = torch.autograd.grad(loss, x)
    gradients = []
    for point in (pixels + defense.delta(encode, pixels, DRAWS), pixels):
        point = point.clone().requires_grad_()
        loss = -log_probability(model.classifier.logits(encode(point)), labels).sum()
        gradients.append(torch.autograd.grad(loss, point)[0])
    assert frozen.name == "frozen delta" and torch.equal(through, gradients[0])
    size = [g.flatten(1).norm(dim=1) for g in gradients]
    assert bool((size[0] < size[1]).all())


def test_the_smooth_sign_unrolls_the_steps() -> None:
    """Its values are the defense's; with the smooth sign forward, too, its gradient is that of central differences."""
    model, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    defense = AntiAdversaries(model, AntiAdversariesSettings(alpha=4.0))
    frozen, smooth, _ = defense.variants()
    assert (smooth.name, smooth.second_derivative) == ("smooth sign", True)
    x = pixels.clone().requires_grad_()
    one, two = (variant.logits(encode, x, DRAWS) for variant in (frozen, smooth))
    torch.testing.assert_close(one, two)
    first, second = (torch.autograd.grad(z[:, 1].sum(), x)[0] for z in (one, two))
    assert not torch.allclose(first, second, rtol=1e-2)

    rule = StepRule(2, 4 / 255, smooth_sign, 1.0)
    ours, expected = slopes(
        lambda x: defense.logits(encode, x + defense.towards_prediction(encode, x, rule, unrolled=True))[:, 1].sum(),
        pixels,
    )
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


def test_a_sign_with_a_smooth_gradient() -> None:
    g = torch.tensor([[3.0, -4.0, 0.0]], requires_grad=True)
    out = sign_with_smooth_gradient(g)
    torch.testing.assert_close(out.detach(), torch.tensor([[1.0, -1.0, 0.0]]))
    (gradient,) = torch.autograd.grad(out.sum(), g, retain_graph=True)
    (expected,) = torch.autograd.grad(smooth_sign(g).sum(), g)
    assert torch.equal(gradient, expected) and bool((gradient != 0).all())
