"""Random resized crops by image id: the views of test-time tuning.

A crop covers 8 to 100 % of the area at an aspect ratio of 3/4 to 4/3 (``RandomResizedCrop`` as ImageNet training and
test-time tuning use it), is resized to the model's input and flipped in half of the cases. What is drawn depends on
the seed and the image's id alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.data.images import read_rgb
from advpt.files import digest

SCALE, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10


@dataclass(frozen=True)
class Boxes:
    """Crops ``[n, 4]`` int64 (top, left, height, width in pixels) and which of them are flipped, ``[n]`` bool."""

    place: Tensor
    flipped: Tensor


def generator_of(seed: int, *about: object) -> torch.Generator:
    """A generator seeded by these values alone."""
    return torch.Generator().manual_seed(int(digest([seed, *map(str, about)])[:15], 16))


def draw(height: int, width: int, n: int, generator: torch.Generator, scale: tuple[float, float] = SCALE) -> Boxes:
    """``n`` crops of an image: the first of ten draws that fits, else the largest centre crop within the ratios.

    Args:
        scale: the smallest and the largest area, as shares of the image.
    """
    numbers = torch.rand(4, n, ATTEMPTS, generator=generator, dtype=torch.float64)
    return _boxes(height, width, numbers, torch.rand(n, generator=generator) < 0.5, scale)


def draw_more(height: int, width: int, n: int, generator: torch.Generator) -> Boxes:
    """As :func:`draw`, but view by view: with equal seeds, fewer crops are the first ones of more."""
    numbers = torch.rand(n, 4 * ATTEMPTS + 1, generator=generator, dtype=torch.float64)
    return _boxes(height, width, numbers[:, 1:].unflatten(1, (4, ATTEMPTS)).transpose(0, 1), numbers[:, 0] < 0.5)


def _boxes(height: int, width: int, numbers: Tensor, flipped: Tensor, scale: tuple[float, float] = SCALE) -> Boxes:
    """Crops of uniform random numbers ``[4, n, 10]``."""
    area, shape, across, down = numbers
    target = height * width * (scale[0] + (scale[1] - scale[0]) * area)
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratio = torch.exp(low + (high - low) * shape)
    w, h = ((target * ratio).sqrt().round().long(), (target / ratio).sqrt().round().long())
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(1)
    rows = torch.arange(len(flipped))
    w, h = w[rows, first], h[rows, first]
    top = (down[rows, first] * (height - h + 1)).long()
    left = (across[rows, first] * (width - w + 1)).long()
    whole_w = min(width, round(height * RATIO[1]))
    whole_h = min(height, round(width / RATIO[0]))
    whole = torch.tensor([(height - whole_h) // 2, (width - whole_w) // 2, whole_h, whole_w])
    return Boxes(torch.where(fits.any(1)[:, None], torch.stack([top, left, h, w], 1), whole), flipped)


def _weights(start: Tensor, length: Tensor, size: int, out: int) -> Tensor:
    """``[n, out, size]``: bilinear interpolation of a crop to ``out`` pixels as a matrix; edges are repeated."""
    at = (torch.arange(out, dtype=torch.float64) + 0.5) * length[:, None] / out - 0.5
    at = at.clamp(min=0).minimum(length[:, None] - 1.0)
    low = at.floor().long()
    share = (at - low).float()
    high = (low + 1).minimum(length[:, None] - 1)
    one = F.one_hot(low + start[:, None], size).float() * (1 - share[..., None])
    return one + F.one_hot(high + start[:, None], size).float() * share[..., None]


def crops(pixels: Tensor, boxes: Sequence[Boxes]) -> Tensor:
    """``[b, n, 3, h, w]`` crops of ``pixels [b, 3, h, w]``, each resized to the whole size by bilinear interpolation
    (a crop is never larger than the image, so there is nothing to smooth) and flipped; differentiable in the pixels."""
    b, _, height, width = pixels.shape
    place = torch.stack([each.place for each in boxes]).flatten(0, 1)
    rows = _weights(place[:, 0], place[:, 2], height, height)
    columns = _weights(place[:, 1], place[:, 3], width, width)
    flipped = torch.stack([each.flipped for each in boxes]).flatten()
    columns = torch.where(flipped[:, None, None], columns.flip(1), columns)
    rows, columns = (m.unflatten(0, (b, -1)).to(pixels.device, pixels.dtype) for m in (rows, columns))
    return rows[:, :, None] @ pixels[:, None] @ columns[:, :, None].transpose(-1, -2)


def views(pixels: Tensor, ids: Sequence[str], n: int, seed: int) -> Tensor:
    """``[b, n, 3, h, w]``: each image itself, then n - 1 crops of it that depend on its id and the seed alone."""
    height, width = pixels.shape[-2:]
    boxes = [draw(height, width, n - 1, generator_of(seed, "views", name)) for name in ids]
    return torch.cat([pixels[:, None], crops(pixels, boxes)], 1) if n > 1 else pixels[:, None]


def crops_of_file(
    path: Path,
    size: tuple[int, int],
    n: int,
    generator: torch.Generator,
    interpolation: str,
    draw: Callable[[int, int, int, torch.Generator], Boxes] = draw,
) -> Tensor:
    """``[n, 3, h, w]`` in [0, 1]: crops of the image file at full resolution, resized by PIL.

    Args:
        draw: :func:`draw` or :func:`draw_more`.

    Raises:
        DataError: the file is missing, is not a whole image, or is too large.
    """
    from torchvision.transforms import InterpolationMode  # a second to import
    from torchvision.transforms import functional as TF

    image = read_rgb(path)
    boxes = draw(image.height, image.width, n, generator)
    mode, resized = InterpolationMode(interpolation), []
    for (top, left, height, width), flip in zip(boxes.place.tolist(), boxes.flipped.tolist()):
        crop = TF.resized_crop(image, top, left, height, width, list(size), mode)
        resized.append(TF.to_tensor(TF.hflip(crop) if flip else crop))
    return torch.stack(resized)
