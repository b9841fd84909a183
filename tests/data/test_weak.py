"""Weak augmentations: sizes, one draw for all views of an image, and gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from advpt.data.views import generator_of
from advpt.data.weak import WeakDraw, augment, draw, weak_augmentation
from tests.helpers.tiny_clip import images

NOTHING = WeakDraw(0.0, (0.0, 0.0), 1.0, None, None, 0.0)


def test_draws_keep_their_ranges_and_chances() -> None:
    drawn = [draw(generator_of(0, i)) for i in range(300)]
    assert 4.5 < max(abs(each.degrees) for each in drawn) <= 5
    assert 0.035 < max(abs(part) for each in drawn for part in each.shift) <= 0.04
    assert 0.9 < min(each.scale for each in drawn) * max(each.scale for each in drawn) < 1.1
    assert 0.92 <= min(each.scale for each in drawn) < 0.93
    coloured = [each.colours for each in drawn if each.colours is not None]
    blurred = [each.sigma for each in drawn if each.sigma is not None]
    noisy = [each.noise for each in drawn if each.noise]
    assert all(110 < len(some) < 190 for some in (coloured, blurred, noisy))
    assert max(abs(each[3]) for each in coloured) <= 0.02
    assert all(0.92 <= part <= 1.08 for each in coloured for part in each[:3])
    assert 0.5 <= min(blurred) < 0.55 and 1.15 < max(blurred) <= 1.2 and 0.018 < max(noisy) <= 0.02


def test_a_draw_of_nothing_changes_nothing() -> None:
    x = images(3).double()
    torch.testing.assert_close(augment(x, NOTHING, generator_of(0)), x, rtol=0, atol=1e-9)


def test_the_map_turns_scales_and_shifts() -> None:
    x = torch.zeros(1, 3, 33, 33, dtype=torch.float64)
    x[..., 16, 24] = 1  # right of the centre

    def centre(**drawn: object) -> tuple[float, float]:
        result = augment(x, dataclasses.replace(NOTHING, **drawn), generator_of(0))[0, 0]
        at, mass = torch.arange(33.0, dtype=torch.float64) - 16, result.sum()
        return float((result.sum(0) * at).sum() / mass), float((result.sum(1) * at).sum() / mass)

    assert centre(shift=(2 / 33, 3 / 33)) == pytest.approx((10, 3), abs=1e-6)
    assert centre(scale=1.25) == pytest.approx((10, 0), abs=0.1)
    right, down = centre(degrees=30.0)
    assert right == pytest.approx(8 * 3**0.5 / 2, abs=0.2) and down == pytest.approx(-4, abs=0.2)


def test_an_image_has_one_draw_and_noise_for_each_view() -> None:
    x = images(2)
    views = x[:, None].expand(-1, 3, -1, -1, -1)
    for name in range(40):
        result = weak_augmentation(views[:1], [generator_of(0, "weak", name)])[0]
        noise = draw(generator_of(0, "weak", name)).noise
        assert torch.equal(result[0], result[1]) == (noise == 0)
        assert (result[0] - result[1]).std() < 2 * noise + 1e-6
    keys = [generator_of(0, "weak", name) for name in "ab"]
    both = weak_augmentation(views, keys)
    assert torch.equal(weak_augmentation(views[1:], [generator_of(0, "weak", "b")])[0], both[1])
    assert both.min() >= 0 and both.max() <= 1


@pytest.mark.parametrize(
    ("drawn", "h", "close"),
    (
        (WeakDraw(3.0, (0.02, -0.03), 1.05, None, 0.8, 0.01), 1e-6, 1e-6),
        (dataclasses.replace(NOTHING, colours=(1.05, 0.95, 1.04, 0.015)), 1e-3, 0.02),  # the hue is float32
    ),
    ids=("map, blur, noise", "colours"),
)
def test_everything_is_differentiable(drawn: WeakDraw, h: float, close: float) -> None:
    base = torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64)[:, None, None]  # the hue has corners where channels meet
    x = (base + 0.15 * images(1).double()).requires_grad_()

    def value(at: torch.Tensor) -> torch.Tensor:
        return (augment(at, drawn, generator_of(0)) * torch.linspace(0, 1, 32, dtype=torch.float64)).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    assert bool(gradient.isfinite().all())
    for seed in range(3):
        d = torch.randn(x.shape, generator=generator_of(seed), dtype=torch.float64)
        slope = (value((x + h * d).detach()) - value((x - h * d).detach())).item() / (2 * h)
        assert slope == pytest.approx((gradient * d).sum().item(), rel=close, abs=close)
