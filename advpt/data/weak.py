"""Weak augmentations of views (SS-TPT): a small affine map, and at times jittered colours, a blur and noise.

All views of an image share one draw of map, colours and blur, and differ in their noise. What is drawn depends on the
image's generator alone, and everything is differentiable in the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DEGREES, SHIFT, SCALE = 5.0, 0.04, 0.08  # shift as a share of the side
CHANCE = 0.5  # of each of the others
JITTER, HUE = 0.08, 0.02
KERNEL, SIGMA = 5, (0.5, 1.2)  # of the blur
NOISE = 0.02  # largest standard deviation, pixels in [0, 1]


@dataclass(frozen=True)
class WeakDraw:
    """What was drawn for an image.

    Args:
        degrees: counter-clockwise. shift: right and down, shares of the sides. scale: a factor.
        colours: factors of brightness, contrast and saturation, and the shift of the hue in turns; None for none.
        sigma: of the blur, in pixels; None for none. noise: its standard deviation; 0 for none.
    """

    degrees: float
    shift: tuple[float, float]
    scale: float
    colours: tuple[float, float, float, float] | None
    sigma: float | None
    noise: float


def draw(generator: torch.Generator) -> WeakDraw:
    """A draw for one image."""
    u = torch.rand(13, generator=generator, dtype=torch.float64).tolist()

    def around(number: float, largest: float) -> float:
        return largest * (2 * number - 1)

    colours = (*(1 + around(number, JITTER) for number in u[5:8]), around(u[8], HUE))
    return WeakDraw(
        degrees=around(u[0], DEGREES),
        shift=(around(u[1], SHIFT), around(u[2], SHIFT)),
        scale=1 + around(u[3], SCALE),
        colours=(colours[0], colours[1], colours[2], colours[3]) if u[4] < CHANCE else None,
        sigma=SIGMA[0] + (SIGMA[1] - SIGMA[0]) * u[10] if u[9] < CHANCE else None,
        noise=NOISE * u[12] if u[11] < CHANCE else 0.0,
    )


def augment(views: Tensor, drawn: WeakDraw, generator: torch.Generator) -> Tensor:
    """``[V, 3, h, w]`` in [0, 1]: the augmented ``views [V, 3, h, w]`` of one image. ``generator``: of the noise."""
    from torchvision.transforms import functional as TF  # a second to import

    x = _affine(views, drawn)
    if drawn.colours is not None:
        brightness, contrast, saturation, hue = drawn.colours
        x = TF.adjust_contrast(TF.adjust_brightness(x, brightness), contrast)
        x = TF.adjust_hue(TF.adjust_saturation(x, saturation), hue)
    if drawn.sigma is not None:
        x = TF.gaussian_blur(x, [KERNEL, KERNEL], [drawn.sigma, drawn.sigma])
    if drawn.noise:
        x = x + drawn.noise * torch.randn(x.shape, generator=generator).to(x)
    return x.clamp(0, 1)


def weak_augmentation(views: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """``[b, V, 3, h, w]``: one weak augmentation of each of ``views [b, V, 3, h, w]``, by the generators of the
    images."""
    return torch.stack([augment(each, draw(generator), generator) for each, generator in zip(views, generators)])


def _affine(x: Tensor, drawn: WeakDraw) -> Tensor:
    """Turned and scaled around the centre, then shifted; bilinear, black outside."""
    height, width = x.shape[-2:]
    angle = math.radians(drawn.degrees)
    cos, sin = math.cos(angle) / drawn.scale, math.sin(angle) / drawn.scale
    right, down = (2 * share for share in drawn.shift)  # in units of half a side, as the grid is
    stretch = height / width
    back = [[cos, -sin * stretch, 0.0], [sin / stretch, cos, 0.0]]  # from where a pixel is to where it comes from
    for row in back:
        row[2] = -row[0] * right - row[1] * down
    grid = F.affine_grid(torch.tensor([back], dtype=x.dtype, device=x.device), [1, 3, height, width], False)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), "bilinear", "zeros", False)
