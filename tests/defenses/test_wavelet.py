"""The wavelet stage against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advpt.defenses import wavelet
from advpt.defenses.super_resolution import SuperResolution


def scene(h: int, w: int, n: int = 2, seed: int = 0) -> np.ndarray:
    """``[n, h, w, 3]`` float64 in [0, 1]: smooth shapes with noise, so that shrinking matters in every band."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w] / max(h, w)
    waves = np.stack([np.sin(9 * x + 3 * y + k) * np.cos(7 * y - k) for k in range(3)], -1)
    return np.clip(0.5 + 0.3 * waves + 0.05 * rng.standard_normal((n, h, w, 3)), 0, 1)


def ours(images: np.ndarray, sigma: float, space: str = "rgb") -> np.ndarray:
    out = wavelet.denoise(torch.from_numpy(images).permute(0, 3, 1, 2), sigma, space)
    return out.permute(0, 2, 3, 1).numpy()


def scikit_image():
    """scikit-image's restoration module; the test is skipped, and says so, where it or PyWavelets is not installed."""
    pytest.importorskip("pywt", reason='the oracle is not installed: pip install "advpt[dev]"')
    return pytest.importorskip("skimage.restoration", reason='the oracle is not installed: pip install "advpt[dev]"')


@pytest.mark.parametrize("size", [(224, 224), (32, 32), (30, 37), (16, 16)])
@pytest.mark.parametrize("sigma", [0.01, 0.02, 0.2])
def test_equal_to_scikit_image(size, sigma):
    restoration = scikit_image()
    images = scene(*size)
    how = {"wavelet": "db1", "convert2ycbcr": True, "rescale_sigma": True, "channel_axis": -1, "mode": "soft"}
    expected = np.stack([restoration.denoise_wavelet(i, sigma=sigma, **how) for i in images])
    assert np.abs(expected - images).max() > 1e-3
    np.testing.assert_allclose(ours(images, sigma), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours(images.astype(np.float32), sigma), expected, rtol=0, atol=5e-6)


def test_channel_space_is_sigma_in_each_stretched_channel():
    """What scikit-image did before 0.16, composed of its parts of today."""
    restoration = scikit_image()
    from skimage import color

    images = scene(64, 48)
    expected = []
    for image in images:
        planes = color.rgb2ycbcr(image)
        for c in range(3):
            low, span = planes[..., c].min(), np.ptp(planes[..., c])
            clean = restoration.denoise_wavelet((planes[..., c] - low) / span, sigma=0.05, wavelet="db1", mode="soft")
            planes[..., c] = clean * span + low
        expected.append(color.ycbcr2rgb(planes))
    np.testing.assert_allclose(ours(images, 0.05, "channel"), np.stack(expected), rtol=0, atol=1e-10)
    assert np.abs(ours(images, 0.05, "channel") - ours(images, 0.05)).max() > 0.01


# Pixel values of denoise_wavelet (scikit-image 0.26) for a formula's image: row 3 of red and blue, sigma 0.1.
REFERENCE = np.array(
    [
        [
            0.2760648105,
            0.2760648105,
            0.2948812967,
            0.2948812967,
            0.3796734581,
            0.3796734581,
            0.5760043212,
            0.5760043212,
            0.5406114646,
            0.5406114646,
            0.5078280324,
            0.5078280324,
            0.6579453712,
            0.6579453712,
            0.7542514854,
            0.7542514854,
        ],
        [
            0.1914070643,
            0.1914070643,
            0.3490036193,
            0.3490036193,
            0.4126186302,
            0.4126186302,
            0.4715675229,
            0.4715675229,
            0.5168191865,
            0.5168191865,
            0.6123217539,
            0.6123217539,
            0.6878205100,
            0.6878205100,
            0.6940943423,
            0.6940943423,
        ],
    ]
)


def formula() -> np.ndarray:
    """``[8, 16, 3]`` in [0, 1] without any random number generator."""
    i = np.arange(8 * 16 * 3, dtype=np.float64).reshape(8, 16, 3)
    return np.modf(np.abs(np.sin(12.9898 * i) * 43.7585))[0] * 0.3 + np.linspace(0.1, 0.6, 16)[None, :, None]


def test_reference_values_without_scikit_image():
    np.testing.assert_allclose(ours(formula()[None], 0.1)[0, 3, :, ::2].T, REFERENCE, rtol=0, atol=1e-9)


def test_depth_is_three_less_than_possible():
    assert [wavelet.levels(n, n) for n in (8, 16, 32, 64, 224, 256)] == [1, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 6)])
def test_haar_is_orthonormal_and_comes_back(size):
    x = torch.rand(2, *size, dtype=torch.float64)
    approximation, details = wavelet.haar(x)
    torch.testing.assert_close(wavelet.unhaar(approximation, details, *size), x)
    if size == (8, 8):
        energy = approximation.square().sum() + details.square().sum()
        torch.testing.assert_close(energy, x.square().sum())


def test_constant_channels_and_no_noise_leave_the_image():
    grey = torch.full((1, 3, 32, 32), 0.3, dtype=torch.float64)
    torch.testing.assert_close(wavelet.denoise(grey, 0.1), grey)
    x = torch.from_numpy(scene(32, 32)).permute(0, 3, 1, 2)
    torch.testing.assert_close(wavelet.denoise(x, 0.0), x)
    assert torch.equal(SuperResolution(sigma=0)(x.float()), x.float())


def test_it_denoises():
    clean = torch.from_numpy(np.broadcast_to(scene(224, 224, 1)[:, :1, :1], (1, 224, 224, 3)).copy()).permute(
        0, 3, 1, 2
    )
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (wavelet.denoise(noisy, 0.05) - clean).square().mean() < 0.1 * (noisy - clean).square().mean()
