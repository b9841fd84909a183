"""AugMix on pictures as test-time tuning uses it, by per-image generators, differentiable in the pixels.

A view is a mixture of the picture and of three chains of one to three operations on it (Hendrycks et al., ICLR 2020,
at severity 1). Values are those of a pipeline on 8-bit pictures: every operation ends in whole levels. Crops, shears,
shifts, rotations and mixing have their own gradient; what acts on levels has the identity's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

VERSION = 1
CHAINS, DEPTH = 3, 3
OPERATIONS = ("autocontrast", "equalize", "posterize", "rotate", "solarize", "shear_x", "shear_y", "shift_x", "shift_y")
GEOMETRIC = ("rotate", "shear_x", "shear_y", "shift_x", "shift_y")
BITS = 4  # that posterize keeps
LOWEST = 0.1  # level of an operation; the highest is 1
AT_ONCE = {"cpu": 2**19, "cuda": 2**26}  # numbers in the pictures of one pass
ROTATION, SHEAR, SOLARIZED, SHIFT = 3.0, 0.03, 25.6, 1 / 30  # degrees, ratio, levels, share of the side: at level 1
ROUNDING = 1e-7  # levels: a whole one that float64 computes as a little less is still that one
NUMBERS = CHAINS + 1 + CHAINS * (1 + 3 * DEPTH)  # uniform random numbers per view


@dataclass(frozen=True)
class Mixture:
    """What is drawn for ``n`` views.

    Args:
        weights: ``[n, 3]`` of the chains, sum 1.
        share: ``[n]`` of the picture itself.
        depth: ``[n, 3]`` int64, operations of each chain.
        operations: ``[n, 3, 3]`` int64 rows of :data:`OPERATIONS`.
        level: ``[n, 3, 3]`` in [0.1, 1]. sign: ``[n, 3, 3]``, 1 or -1.
    """

    weights: Tensor
    share: Tensor
    depth: Tensor
    operations: Tensor
    level: Tensor
    sign: Tensor


def draw(n: int, generator: torch.Generator, skip: int = 0) -> Mixture:
    """What ``n`` views draw, after ``skip`` others; with equal seeds, fewer views are the first ones of more."""
    numbers = torch.rand(skip + n, NUMBERS, generator=generator, dtype=torch.float64)[skip:]
    shares = -numbers[:, :CHAINS].clamp_min(1e-300).log()  # exponential: normalised, they are Dirichlet(1, 1, 1)
    steps = numbers[:, CHAINS + 1 :].unflatten(1, (CHAINS, 1 + 3 * DEPTH))
    each = steps[..., 1:].unflatten(2, (DEPTH, 3))
    return Mixture(
        weights=shares / shares.sum(1, keepdim=True).clamp_min(1e-300),
        share=numbers[:, CHAINS],
        depth=1 + (DEPTH * steps[..., 0]).long(),
        operations=(len(OPERATIONS) * each[..., 0]).long(),
        level=LOWEST + (1 - LOWEST) * each[..., 1],
        sign=torch.where(each[..., 2] < 0.5, -1.0, 1.0).double(),
    )


def augmix(pixels: Tensor, generators: Sequence[torch.Generator], skip: int = 0) -> Tensor:
    """AugMix of ``pixels [b, n, 3, h, w]`` in [0, 1], the ``n`` views of ``b`` images.

    Args:
        generators: one per image. skip: the views are those after this number of others.
    """
    b, n = pixels.shape[:2]
    drawn = [draw(n, generator, skip) for generator in generators]
    parts = [torch.cat([getattr(each, name) for each in drawn]) for name in Mixture.__dataclass_fields__]
    together = max(1, AT_ONCE.get(pixels.device.type, AT_ONCE["cpu"]) // pixels[0, 0].numel()) if n else 1
    views, splits = pixels.flatten(0, 1).split(together), zip(*(part.split(together) for part in parts))
    return torch.cat([mix(some, Mixture(*each)) for some, each in zip(views, splits)]).unflatten(0, (b, n))


def mix(pixels: Tensor, drawn: Mixture) -> Tensor:
    """The views ``[n, 3, h, w]`` of ``pixels [n, 3, h, w]`` in [0, 1]."""
    x = eight_bits(pixels)
    chains = 255 * x.repeat_interleave(CHAINS, 0)
    depth, operations = drawn.depth.flatten(), drawn.operations.flatten(0, 1)
    level, sign = drawn.level.flatten(0, 1), drawn.sign.flatten(0, 1)
    for step in range(DEPTH):
        for names, rows in _groups(operations[:, step], depth > step):
            at = (names, level[rows, step], sign[rows, step])
            rows = rows.to(x.device)
            chains.index_copy_(0, rows, apply(chains[rows], *at))
    return mixed(x, (chains / 255).unflatten(0, (-1, CHAINS)), drawn.weights.to(x), drawn.share.to(x))


def mixed(x: Tensor, augmented: Tensor, weights: Tensor, share: Tensor) -> Tensor:
    """``[n, ...]``: ``share`` of ``x [n, ...]``, the rest of ``augmented [n, 3, ...]`` by ``weights [n, 3]``."""
    sides = [1] * (x.dim() - 1)
    share = share.view(-1, *sides)
    return share * x + (1 - share) * (weights.view(*weights.shape, *sides) * augmented).sum(1)


def _groups(operations: Tensor, active: Tensor) -> list[tuple[list[str], Tensor]]:
    """Names and rows of what is computed together: all that move pixels, then each operation on levels."""
    groups = []
    for kind in (GEOMETRIC, *((name,) for name in OPERATIONS if name not in GEOMETRIC)):
        wanted = torch.tensor([OPERATIONS.index(name) for name in kind])
        rows = (torch.isin(operations, wanted) & active).nonzero()[:, 0]
        if len(rows):
            groups.append(([OPERATIONS[i] for i in operations[rows].tolist()], rows))
    return groups


def apply(levels: Tensor, names: Sequence[str], level: Tensor, sign: Tensor) -> Tensor:
    """Operations on pictures, all of them geometric or all the same.

    Args:
        levels: ``[n, 3, h, w]``, whole numbers of 0 to 255.
        names: of the operations. level: ``[n]`` in [0.1, 1]. sign: ``[n]``, 1 or -1.
    """
    if names[0] in GEOMETRIC:
        height, width = levels.shape[-2:]
        each = zip(names, level.tolist(), sign.tolist())
        return affine(levels, torch.tensor([matrix(*one, height, width) for one in each], dtype=torch.float64))
    if names[0] == "solarize":
        return solarize(levels, 256 - (SOLARIZED * level).floor())
    return {"autocontrast": autocontrast, "equalize": equalize, "posterize": posterize}[names[0]](levels)


# --- what acts on levels --------------------------------------------------------------------------------------------


def eight_bits(pixels: Tensor, floor: bool = False) -> Tensor:
    """Pixels in [0, 1] as a picture of 8 bits has them, with the identity's gradient. ``floor``: the level below in the
    place of the nearest one."""
    levels = 255 * pixels.detach()
    levels = levels.floor() if floor else (levels + 0.5).floor()
    return _straight(pixels, levels.clamp(0, 255) / 255)


def _straight(x: Tensor, value: Tensor) -> Tensor:
    """``value`` with the gradient of ``x``."""
    return value if not x.requires_grad else _StraightThrough.apply(x, value)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def posterize(levels: Tensor) -> Tensor:
    """The upper four bits."""
    step = 2 ** (8 - BITS)
    return _straight(levels, (levels.detach() / step).floor() * step)


def solarize(levels: Tensor, threshold: Tensor) -> Tensor:
    """Levels from ``threshold [n]`` on turned around."""
    x = levels.detach()
    return _straight(levels, torch.where(x < threshold.to(x).view(-1, 1, 1, 1), x, 255 - x))


def autocontrast(levels: Tensor) -> Tensor:
    """Every channel stretched to 0 to 255."""
    x = levels.detach().flatten(2).flatten(0, 1)
    low, high = (edge[:, None].double() for edge in x.aminmax(dim=1))
    scale = torch.full_like(high, 255).div((high - low).clamp_min(1))  # 255 / x multiplies by the reciprocal of x
    every = torch.arange(256, device=x.device, dtype=torch.float64)
    stretched = (every * scale - low * scale).trunc().clamp(0, 255)
    return _look_up(levels, torch.where(high > low, stretched, every))


def equalize(levels: Tensor) -> Tensor:
    """Every channel's histogram made even, by PIL's rule in whole numbers."""
    x = levels.detach().long().flatten(2).flatten(0, 1)
    counts = x.new_zeros(len(x), 256).scatter_add_(1, x, torch.ones_like(x))
    last = counts.gather(1, x.amax(1, keepdim=True))
    step = (counts.sum(1, keepdim=True) - last) // 255
    safe = step.clamp_min(1)
    table = ((safe // 2 + counts.cumsum(1) - counts) // safe).clamp_max(255)
    return _look_up(levels, torch.where(step > 0, table, torch.arange(256, device=x.device)))


def _look_up(levels: Tensor, tables: Tensor) -> Tensor:
    """Every channel's levels ``[n, 3, h, w]`` by its row of ``tables [3 n, 256]``."""
    x = levels.detach().long().flatten(2).flatten(0, 1)
    return _straight(levels, tables.to(levels.dtype).gather(1, x).view_as(levels))


# --- what moves pixels ----------------------------------------------------------------------------------------------


def matrix(name: str, level: float, sign: float, height: int, width: int) -> list[float]:
    """``(a, b, c, d, e, f)``: the pixel at ``(x, y)`` comes from ``(a x + b y + c, d x + e y + f)``."""
    if name == "rotate":
        angle = -math.radians(int(ROTATION * level) * sign % 360)
        cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
        x, y = width / 2, height / 2
        return [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]
    if name == "shear_x":
        return [1, sign * SHEAR * level, 0, 0, 1, 0]
    if name == "shear_y":
        return [1, 0, 0, sign * SHEAR * level, 1, 0]
    side = width if name == "shift_x" else height
    shift = sign * int(SHIFT * side * level)
    return [1, 0, shift, 0, 1, 0] if name == "shift_x" else [1, 0, 0, 0, 1, shift]


def affine(levels: Tensor, matrices: Tensor) -> Tensor:
    """Pictures ``levels [n, 3, h, w]`` moved by ``matrices [n, 6]`` as PIL moves them: bilinear, black beyond the
    edges, cut to whole levels; with the gradient of the interpolation."""
    height, width = levels.shape[-2:]
    a, b, c, d, e, f = matrices.to(levels.device).view(len(levels), 6, 1, 1).unbind(1)
    x = torch.arange(width, device=levels.device, dtype=torch.float64) + 0.5
    y = torch.arange(height, device=levels.device, dtype=torch.float64)[:, None] + 0.5
    at_x, at_y = a * x + b * y + c, d * x + e * y + f
    inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
    grid = torch.stack([2 * at_x / width - 1, 2 * at_y / height - 1], -1)
    moved = F.grid_sample(levels.double(), grid, padding_mode="border", align_corners=False) * inside[:, None]
    return _straight(moved, (moved.detach() + ROUNDING).floor()).to(levels)
