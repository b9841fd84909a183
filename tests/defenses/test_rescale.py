"""Random resizing: sizes, places, padding, and that it is a resize."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from advpt.attacks.noise import SampleNoise
from advpt.defenses.rescale import FILLS, RandomRescale


class Fixed(SampleNoise):
    """Draws of one's choice: size, top, left, mirror."""

    def __init__(self, *draws: float) -> None:
        super().__init__(["x"], 0)
        self.draws = torch.tensor([draws])

    def uniform(self, like, low, high):
        return self.draws.to(like)


@pytest.mark.parametrize(
    ("n", "low", "sizes"), [(224, 1.0, (224, 247, 248)), (224, 1.0368, (232, 247, 248)), (32, 1.0, (32, 34, 35)),
                            (336, 1.0, (336, 371, 372))]
)  # fmt: skip
def test_sizes_scale_with_the_input(n, low, sizes):
    assert RandomRescale(low=low).sizes(n) == sizes


def test_the_canvas_is_the_resized_image_and_padding(monkeypatch):
    x = torch.rand(1, 3, 32, 32)
    seen = []
    real = F.interpolate
    monkeypatch.setattr(F, "interpolate", lambda image, *a, **k: seen.append(image) or real(image, *a, **k))
    for mode in ("nearest", "bilinear"):
        seen.clear()
        RandomRescale(interp=mode, fill="mean", canvas=1.3)(x, Fixed(0.5, 0.99, 0.0, 0.9))
        canvas = seen[0]
        assert canvas.shape[-2:] == (42, 42)
        r = 32 + int(0.5 * 10)  # r from 32 to 41
        inner = real(x, (r, r), mode=mode)
        torch.testing.assert_close(canvas[:, :, 42 - r :, :r], inner, atol=1e-5, rtol=0)
        fill = torch.tensor(FILLS["mean"])[:, None, None]
        assert torch.allclose(canvas[0, :, : 42 - r], fill) and torch.allclose(canvas[0, :, :, r:], fill)


def test_flip_mirrors_half_of_the_images():
    x = torch.rand(1, 3, 32, 32)
    one = RandomRescale(flip=True)(x, Fixed(0.0, 0.5, 0.0, 0.6))
    two = RandomRescale(flip=True)(x, Fixed(0.0, 0.5, 0.0, 0.4))
    torch.testing.assert_close(one.flip(3), two, atol=1e-6, rtol=0)
    assert torch.equal(one, RandomRescale(flip=False)(x, Fixed(0.0, 0.5, 0.0, 0.4)))


def test_every_size_and_place_is_drawn_equally_often():
    """Black images on white padding: the black area is r squared, its centre says where."""
    n = 4000
    defense = RandomRescale()
    defense_sizes = defense.sizes(32)
    noise = SampleNoise([str(i) for i in range(n)], 0)
    draws = noise.uniform(torch.zeros(n, 4), 0, 1).double()
    from advpt.defenses.rescale import whole_numbers

    r = whole_numbers(draws[:, 0], defense_sizes[0], defense_sizes[1])
    counts = r.unique(return_counts=True)
    assert counts[0].tolist() == [32, 33, 34]
    assert (counts[1] - n / 3).abs().max() < 4 * (n * 2 / 9) ** 0.5
    for column in (1, 2):
        place = (draws[:, column] * (35 - r + 1)).floor().clamp_max(35 - r)
        for size in (32, 33, 34):
            found, times = place[r == size].unique(return_counts=True)
            assert found.tolist() == list(range(35 - size + 1))
            share = times / times.sum()
            assert (share - 1 / len(found)).abs().max() < 0.06


def test_the_largest_draw_stays_inside():
    x = torch.zeros(1, 3, 32, 32)
    out = RandomRescale(fill="grey")(x, Fixed(0.9999999, 0.9999999, 0.9999999, 0.9))
    assert float(out.max()) <= 0.5 + 1e-6


def test_a_constant_grey_image_stays_grey():
    x = torch.full((3, 3, 224, 224), 0.5)
    out = RandomRescale()(x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(out, x, atol=1e-6, rtol=0)
