"""The 31 transforms whose common effect on an embedding DBD looks at: crops, fewer bits, JPEG, noise and filters."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from advpt.data import views
from advpt.test_time.base import Draws

AREA = (0.5, 1.0)  # of a crop, as a share of the image
CROPS, BITS, SIGMA, NOISES, SIDE = 16, 3, 0.1, 6, 5
BLUR_SIGMA = 1.1  # in pixels: what image libraries take for a side of 5
VERSION = 1  # of the table below: part of every bank's key

Transform = Callable[[Tensor, Draws], Tensor]


def straight_through(pixels: Tensor, changed: Tensor) -> Tensor:
    """The values of ``changed``, with the gradient of the identity in ``pixels``."""
    return changed.detach() + (pixels - pixels.detach()) if pixels.requires_grad else changed


def fewer_bits(pixels: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """``[b, 3, h, w]`` in steps of 32/255, white stays white; straight through.

    Args:
        rounding: ``torch.floor``, ``torch.round`` or ``torch.ceil``.
    """
    width = 2 ** (8 - BITS)
    return straight_through(pixels, (rounding(pixels.detach() * 255 / width) * width).clamp(0, 255) / 255)


def jpeg(pixels: Tensor, quality: int) -> Tensor:
    """``[b, 3, h, w]`` after rounding to 8 bits and JPEG, by PIL; straight through."""
    eight = (pixels.detach() * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for image in eight:
        with io.BytesIO() as file:
            Image.fromarray(image).save(file, "JPEG", quality=quality)
            with Image.open(file) as opened:
                decoded.append(np.asarray(opened))
    values = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(pixels) / 255
    return straight_through(pixels, values)


def noisy(pixels: Tensor, draws: Draws, number: int) -> Tensor:
    """``[b, 3, h, w]`` with Gaussian noise, clipped to [0, 1]."""
    return (pixels + SIGMA * draws.noise(f"dbd noise {number}").normal(pixels)).clamp(0, 1)


def crop(pixels: Tensor, draws: Draws, number: int) -> Tensor:
    """``[b, 3, h, w]``: a random crop, resized to the whole size, flipped half of the time."""
    height, width = pixels.shape[-2:]
    generators = draws.generators(f"dbd crop {number}")
    return views.crops(pixels, [views.draw(height, width, 1, each, AREA) for each in generators])[:, 0]


def median(pixels: Tensor) -> Tensor:
    """``[b, 3, h, w]``: the median of 5x5 pixels, mirrored at the edges; its gradient goes to that pixel."""
    windows = _padded(pixels).unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    return windows.flatten(-2).median(-1).values


def mean(pixels: Tensor) -> Tensor:
    """``[b, 3, h, w]``: the mean of 5x5 pixels, mirrored at the edges."""
    return F.avg_pool2d(_padded(pixels), SIDE, 1)


def gaussian(pixels: Tensor) -> Tensor:
    """``[b, 3, h, w]``: a Gaussian filter of 5x5 pixels, mirrored at the edges."""
    at = torch.arange(SIDE, dtype=torch.float64) - SIDE // 2
    line = torch.exp(-(at**2) / (2 * BLUR_SIGMA**2))
    line = (line / line.sum()).to(pixels).expand(3, 1, 1, SIDE)
    across = F.conv2d(_padded(pixels), line, groups=3)
    return F.conv2d(across, line.transpose(2, 3), groups=3)


def _padded(pixels: Tensor) -> Tensor:
    return F.pad(pixels, [SIDE // 2] * 4, mode="reflect")


def _without_draws(function: Callable[[Tensor], Tensor]) -> Transform:
    return lambda pixels, draws: function(pixels)


def _table() -> dict[str, Transform]:
    table: dict[str, Transform] = {f"crop {i}": partial(crop, number=i) for i in range(CROPS)}
    for name, rounding in (("floor", torch.floor), ("round", torch.round), ("ceil", torch.ceil)):
        table[f"{BITS} bits, {name}"] = _without_draws(partial(fewer_bits, rounding=rounding))
    for quality in (50, 60, 75):
        table[f"jpeg {quality}"] = _without_draws(partial(jpeg, quality=quality))
    table |= {f"noise {i}": partial(noisy, number=i) for i in range(NOISES)}
    return table | {function.__name__: _without_draws(function) for function in (median, mean, gaussian)}


TRANSFORMS = _table()  # by name; an image's own pixels come on top


def transformed(pixels: Tensor, draws: Draws, chosen: Tensor) -> Tensor:
    """``[b, n, 3, h, w]``: each image behind transforms of its own.

    Args:
        pixels: ``[b, 3, h, w]`` in [0, 1], any floating type; gradients flow.
        draws: of the images; what a transform draws depends on the image's key, the seed and the transform alone.
        chosen: ``[b, n]`` int64, places in :data:`TRANSFORMS`.
    """
    parts, places = [], []
    for number, transform in enumerate(TRANSFORMS.values()):
        rows, slots = (chosen == number).nonzero(as_tuple=True)
        if len(rows):
            keys = tuple(draws.keys[row] for row in rows.tolist())
            parts.append(transform(pixels[rows.to(pixels.device)], Draws(keys, draws.seed)))
            places.append(rows * chosen.shape[1] + slots)
    order = torch.cat(places).argsort().to(pixels.device)
    return torch.cat(parts)[order].unflatten(0, tuple(chosen.shape))


def some(draws: Draws, n: int) -> Tensor:
    """``[b, n]`` int64: ``n`` different transforms for each image, of its draws."""
    return torch.stack([
        torch.randperm(len(TRANSFORMS), generator=each)[:n] for each in draws.generators("dbd transforms")
    ])  # fmt: skip
