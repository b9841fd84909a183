"""The low-pass filter: the worked example, and that it is linear and keeps what is slow."""

from __future__ import annotations

import pytest
import torch

from advpt.attacks.noise import SampleNoise
from advpt.defenses.low_pass import MASKS, LowPass, low_pass, mask
from advpt.errors import DefenseError
from tests.helpers.tiny_clip import DTYPES, vectors


@pytest.fixture
def images(pixels):
    return pixels.double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_worked_example(dtype):
    about = vectors("lpf", dtype)
    for key, kind, radius in (("gaussian_radius_2", "gaussian", 2), ("ideal_radius_2", "ideal", 2),
                              ("gaussian_radius_40", "gaussian", 40)):  # fmt: skip
        out = low_pass(about["image_8x8"], kind, radius / 8)
        torch.testing.assert_close(out.clamp(0, 1), about[key], **DTYPES[dtype])
    out = low_pass(about["image_8x8"], "gaussian", 2 / 8)
    assert float(about["image_8x8"].mean()) == pytest.approx(about["mean_in"])
    assert float(out.mean()) == pytest.approx(about["mean_out_gaussian_unclipped"])


def test_masks_by_hand():
    """Bins of 8 x 8 are 0 to 4 and -3 to -1 in rows, 0 to 4 in columns; r = 2 bins."""
    for kind, at_0_2, at_3_4 in (
        ("gaussian", 0.6065306597, 0.0439369336),  # exp(-1 / 2), exp(-25 / 8)
        ("ideal", 1.0, 0.0),
        ("butterworth", 0.5, 1 / (1 + 6.25**2)),  # (d / r)^4 of 1 and of 5 / 2
    ):
        made = mask(8, 8, kind, 2 / 8)
        assert made.shape == (8, 5) and made[0, 0] == 1
        assert made[0, 2] == pytest.approx(at_0_2) and made[2, 0] == pytest.approx(at_0_2)
        assert made[3, 4] == pytest.approx(at_3_4) and made[5, 4] == pytest.approx(at_3_4)  # row 5 is bin -3


def test_the_radius_is_a_share_of_the_size(pixels):
    assert LowPass().radius * 224 == pytest.approx(40)
    small, large = mask(32, 32, "gaussian", 0.25), mask(64, 64, "gaussian", 0.25)
    torch.testing.assert_close(small[:16, :17], large[:32:2, ::2])  # frequencies are those of cycles per pixel
    odd = torch.rand(1, 3, 7, 9, dtype=torch.float64)
    assert low_pass(odd, "gaussian", 0.2).shape == odd.shape


@pytest.mark.parametrize("kind", MASKS)
class TestProperties:
    def test_it_is_linear_and_keeps_mean_and_constants(self, images, kind):
        def smooth(x):
            return low_pass(x, kind, 0.18)

        one, two = images[:2], images[2:]
        torch.testing.assert_close(smooth(0.3 * one - 2 * two), 0.3 * smooth(one) - 2 * smooth(two))
        torch.testing.assert_close(smooth(images).mean((-2, -1)), images.mean((-2, -1)))
        assert float((smooth(images) - images).abs().max()) > 0.1
        flat = torch.full_like(images, 0.3)
        torch.testing.assert_close(smooth(flat), flat)

    def test_an_infinite_radius_is_the_identity(self, images, kind):
        for radius in (float("inf"), 1e9):
            torch.testing.assert_close(low_pass(images, kind, radius), images, atol=1e-6, rtol=0)

    def test_its_gradient_is_that_of_central_differences(self, images, kind):
        defense = LowPass(mask=kind)
        x, h = images.requires_grad_(), 1e-5
        noise, generator = SampleNoise([], 0), torch.Generator().manual_seed(1)

        def value(at):
            return defense.apply(at, noise).square().sum()

        (gradient,) = torch.autograd.grad(value(x), x)
        for _ in range(5):
            d = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            slope = (value(x.detach() + h * d) - value(x.detach() - h * d)) / (2 * h)
            torch.testing.assert_close((gradient * d).sum(), slope, rtol=1e-4, atol=1e-7)


def test_the_ideal_filter_twice_is_the_filter_once(images):
    for radius in (2 / 32, 5 / 32, 0.3):
        once = low_pass(images, "ideal", radius)
        torch.testing.assert_close(low_pass(once, "ideal", radius), once)
    assert not torch.allclose(low_pass(low_pass(images, "gaussian", 0.1), "gaussian", 0.1),
                              low_pass(images, "gaussian", 0.1), atol=1e-3)  # fmt: skip


def test_where_the_result_is_clipped_there_is_no_gradient(pixels):
    sharp = (pixels > 0.5).float().requires_grad_()
    out = LowPass(mask="ideal", radius=0.3)(sharp)
    clipped = (out == 0) | (out == 1)
    assert bool(clipped.any())
    (gradient,) = torch.autograd.grad(out[clipped].sum(), sharp)
    assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize(("options", "message"), [({"mask": "box"}, "unknown mask"), ({"radius": 0.0}, "more than 0"),
                                                  ({"radius": float("inf")}, "more than 0")])  # fmt: skip
def test_mistakes_are_explained(options, message):
    with pytest.raises(DefenseError, match=message):
        LowPass(**options)
