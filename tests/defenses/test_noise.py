"""Uniform noise of the input: its range, and that it goes by image."""

from __future__ import annotations

import pytest
import torch

from advpt.defenses.noise import UniformNoise
from advpt.errors import DefenseError
from tests.helpers.defenses import noise


def test_it_is_uniform_within_eps_and_clipped(pixels):
    grey = torch.full_like(pixels, 0.5)
    moved = (UniformNoise(eps=8)(grey, noise()) - grey) * 255 / 8
    assert float(moved.abs().max()) <= 1 + 1e-4
    count = moved.numel()
    assert abs(float(moved.mean())) < 4 * (1 / 3 / count) ** 0.5
    assert float(moved.square().mean()) == pytest.approx(1 / 3, rel=0.03)  # the variance of a uniform draw in [-1, 1]
    white = UniformNoise()(torch.ones_like(pixels), noise())
    assert float(white.max()) == 1 and float((white == 1).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_without_eps_it_is_the_identity(pixels):
    assert torch.equal(UniformNoise(eps=0)(pixels, noise()), pixels)


def test_another_seed_or_image_has_other_draws(pixels):
    same = pixels[:1].expand(4, -1, -1, -1)
    one, two = UniformNoise()(same, noise(seed=0)), UniformNoise()(same, noise(seed=1))
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0], two[0])


@pytest.mark.parametrize("eps", [-1.0, 256.0, float("nan")])
def test_mistakes_are_explained(eps):
    with pytest.raises(DefenseError, match="expected 0 to 255, in 1/255"):
        UniformNoise(eps=eps)
