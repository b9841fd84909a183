"""BayesShrink denoising with the Haar wavelet in YCbCr, batched and differentiable.

The result is scikit-image's ``denoise_wavelet(image, sigma, wavelet="db1", convert2ycbcr=True, rescale_sigma=True)``
for float images (1e-15 in float64; scikit-image 0.26). Method: Chang, Yu and Vetterli, IEEE TIP 2000.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-R BT.601 with 8-bit ranges, for RGB in [0, 1].
YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
OFFSET = (16.0, 128.0, 128.0)
SIGMA_SPACES = ("rgb", "channel")


def levels(height: int, width: int) -> int:
    """Depth of the decomposition: the largest possible minus the three coarsest, at least 1 (4 for 224, 2 for 32)."""
    return max(min(height, width).bit_length() - 1 - 3, 1)


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """One orthonormal level: approximation ``[..., h/2, w/2]`` and details ``[3, ..., h/2, w/2]`` of ``x [..., h, w]``.
    Odd sides are extended by their last row or column."""
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
    a, b = x[..., 0::2, 0::2], x[..., 0::2, 1::2]
    c, d = x[..., 1::2, 0::2], x[..., 1::2, 1::2]
    return (a + b + c + d) / 2, torch.stack([a - b + c - d, a + b - c - d, a - b - c + d]) / 2


def unhaar(approximation: Tensor, details: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`haar`, cut to ``[..., height, width]``."""
    s, (h, v, d) = approximation, details
    top = torch.stack([s + h + v + d, s - h + v - d], -1).flatten(-2)
    bottom = torch.stack([s + h - v - d, s - h - v + d], -1).flatten(-2)
    return torch.stack([top, bottom], -2).flatten(-3, -2)[..., :height, :width] / 2


def shrink(details: Tensor, sigma: Tensor) -> Tensor:
    """BayesShrink: soft-threshold each band ``[..., h, w]`` at sigma^2 / sqrt(max(mean(d^2) - sigma^2, eps))."""
    variance = sigma.square()[..., None, None]
    signal = (details.square().mean((-2, -1), keepdim=True) - variance).clamp_min(torch.finfo(details.dtype).eps)
    return details.sign() * F.relu(details.abs() - variance / signal.sqrt())


def denoise_channels(x: Tensor, sigma: Tensor) -> Tensor:
    """Denoise planes ``x [..., h, w]`` with noise level ``sigma [...]``, both on the same scale."""
    stack: list[tuple[Tensor, tuple[int, int]]] = []
    for _ in range(levels(x.shape[-2], x.shape[-1])):
        size = (x.shape[-2], x.shape[-1])
        x, details = haar(x)
        stack.append((shrink(details, sigma), size))
    for details, size in reversed(stack):
        x = unhaar(x, details, *size)
    return x


def denoise(rgb: Tensor, sigma: float, sigma_space: str = "rgb") -> Tensor:
    """Denoise ``rgb [b, 3, h, w]`` in [0, 1]; the result is not clipped.

    Args:
        sigma: the noise level. In space ``rgb`` it is that of an RGB channel and is carried over to YCbCr (scikit-image
            since 0.16; AdvPT). In space ``channel`` it counts in each YCbCr channel stretched to [0, 1] (scikit-image
            before; Mustafa et al.), which is far stronger on the colour channels.
    """
    matrix, inverse, norms = _transform(rgb.dtype, rgb.device)
    offset = rgb.new_tensor(OFFSET)[:, None, None]
    ycbcr = torch.einsum("ij,bjhw->bihw", matrix, rgb) + offset
    low = ycbcr.amin((-2, -1), keepdim=True)
    span = ycbcr.amax((-2, -1), keepdim=True) - low
    flat = span <= 0  # a constant channel is left as it is
    span = torch.where(flat, torch.ones_like(span), span)
    noise = sigma * norms / span[..., 0, 0] if sigma_space == "rgb" else torch.full_like(span[..., 0, 0], sigma)
    clean = denoise_channels((ycbcr - low) / span, noise) * span + low
    return torch.einsum("ij,bjhw->bihw", inverse, torch.where(flat, ycbcr, clean) - offset)


@functools.cache
def _transform(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """RGB to YCbCr, its inverse, and the norms of its rows."""
    matrix = torch.tensor(YCBCR, dtype=torch.float64)
    inverse, norms = matrix.inverse(), matrix.norm(dim=1)
    return matrix.to(device, dtype), inverse.to(device, dtype), norms.to(device, dtype)
