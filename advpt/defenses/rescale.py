"""Random resizing and padding (Xie et al., ICLR 2018): the defense called Rescale in AdvPT's tables.

The original resizes 299-pixel images to a random size r, pads them with grey to 331 at a random place and classifies
the 331-pixel canvas. Here sizes scale with the input (a canvas of 248 for 224 pixels, 35 for 32), and the canvas is
resized back, since CLIP's input size is fixed. One draw per image, where the original has one per batch. Profiles:

* ``iclr`` (default): r from n to the canvas minus 1, the range of the paper's text.
* ``competition``: r from 310/299 n on and a flip half of the time, as in the authors' NIPS 2017 entry (whose mean
  over 30 passes is not part of an image-to-image map: see the seeds of the defense in the record).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.attacks.noise import SampleNoise
from advpt.backbones.card import CLIP_MEAN
from advpt.defenses.base import DEFENSES, Defense, Option
from advpt.errors import DefenseError, unknown_name

FILLS: dict[str, tuple[float, float, float]] = {
    "grey": (0.5, 0.5, 0.5),
    "black": (0.0, 0.0, 0.0),
    "mean": (CLIP_MEAN[0], CLIP_MEAN[1], CLIP_MEAN[2]),
}
INTERPOLATIONS = ("nearest", "bilinear")


@DEFENSES.add
class RandomRescale(Defense):
    """Resizes images to a random size and pads them at a random place.

    Args:
        low, canvas: the smallest r and the padded size, as multiples of the input size.
        fill: name of the padding colour (:data:`FILLS`).
        interp: ``nearest`` or ``bilinear``, of the resize to r.
        flip: mirror half of the images.
    """

    name = "rescale"
    summary = "random resize and grey padding (Xie et al., ICLR 2018)"
    draws_noise = True
    linear = True
    profiles = {
        "iclr": {"low": 1.0, "canvas": 1.107, "fill": "grey", "interp": "nearest", "flip": False},
        "competition": {"low": 1.0368, "canvas": 1.107, "fill": "grey", "interp": "nearest", "flip": True},
    }

    def __init__(
        self,
        *,
        low: float = 1.0,
        canvas: float = 1.107,
        fill: str = "grey",
        interp: str = "nearest",
        flip: bool = False,
    ) -> None:
        self.low, self.canvas, self.fill, self.interp, self.flip = low, canvas, fill, interp, flip
        self.check(self.options)

    @property
    def options(self) -> dict[str, Option]:
        return {name: getattr(self, name) for name in self.profiles["iclr"]}

    @classmethod
    def check(cls, options: Mapping[str, Option]) -> None:
        if options["fill"] not in FILLS:
            raise DefenseError(unknown_name("fill", str(options["fill"]), FILLS))
        if options["interp"] not in INTERPOLATIONS:
            raise DefenseError(unknown_name("interpolation", str(options["interp"]), INTERPOLATIONS))
        low, canvas = float(options["low"]), float(options["canvas"])
        if not 0.1 <= low <= canvas <= 4:
            raise DefenseError(f"low={low}, canvas={canvas}: expected 0.1 <= low <= canvas <= 4 (times the input)")

    def sizes(self, n: int) -> tuple[int, int, int]:
        """(smallest r, largest r, canvas) in pixels for sides of ``n`` pixels: (224, 247, 248) for 224."""
        canvas = max(round(n * self.canvas), 2)
        smallest = max(1, round(n * self.low))
        return smallest, max(smallest, canvas - 1), canvas

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | self.options

    def apply(self, pixels: Tensor, noise: SampleNoise | None) -> Tensor:
        noise = self.needed(noise)
        b, _, height, width = pixels.shape
        draws = noise.uniform(torch.zeros(b, 4, device=pixels.device), 0, 1)
        size, top, left, mirror = draws.double().unbind(1)
        inside, rows = [], []
        for n, start in ((height, top), (width, left)):
            smallest, largest, canvas = self.sizes(n)
            r = whole_numbers(size, smallest, largest)
            place = (start * (canvas - r + 1)).floor().clamp_max(canvas - r)
            rows.append(self._sources(n, r, place, canvas))
            at = torch.arange(canvas, device=pixels.device)[None]
            inside.append((at >= place[:, None]) & (at < (place + r)[:, None]))
        resized = _pick(_pick(pixels, rows[0], 2), rows[1], 3)
        shown = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).expand_as(resized)
        fill = torch.tensor(FILLS[self.fill], dtype=pixels.dtype, device=pixels.device)[None, :, None, None]
        padded = torch.where(shown, resized, fill)
        if self.flip:
            padded = torch.where((mirror < 0.5)[:, None, None, None], padded.flip(3), padded)
        return F.interpolate(padded, (height, width), mode="bilinear", align_corners=False, antialias=True)

    def _sources(self, n: int, r: Tensor, place: Tensor, canvas: int) -> tuple[Tensor, Tensor, Tensor]:
        """The two source positions of each position on the canvas ``[b, canvas]``, and the weight of the second."""
        at = torch.arange(canvas, device=r.device, dtype=r.dtype)[None] - place[:, None]
        if self.interp == "nearest":
            first = torch.div(at * n, r[:, None], rounding_mode="floor").clamp(0, n - 1)
            return first.long(), first.long(), torch.zeros_like(first)
        source = ((at + 0.5) * (n / r[:, None]) - 0.5).clamp(0, n - 1)
        first = source.floor()
        return first.long(), (first + 1).clamp_max(n - 1).long(), source - first


def whole_numbers(draw: Tensor, low: int, high: int) -> Tensor:
    """Whole numbers (as floats) from ``low`` to ``high``, both included, of draws in [0, 1]."""
    return (low + (draw * (high - low + 1)).floor()).clamp_max(high)


def _pick(pixels: Tensor, source: tuple[Tensor, Tensor, Tensor], axis: int) -> Tensor:
    """Interpolate along one axis of ``[b, 3, h, w]`` at each image's own positions."""
    shape, full = [len(pixels), 1, 1, 1], list(pixels.shape)
    shape[axis] = full[axis] = source[0].shape[1]
    first, second, weight = (part.reshape(shape) for part in source)
    one = pixels.gather(axis, first.expand(full))
    if not bool(weight.any()):
        return one
    weight = weight.to(pixels.dtype)
    return one * (1 - weight) + pixels.gather(axis, second.expand(full)) * weight
