"""A low-pass filter on each channel, in the frequency domain: linear, and differentiable by itself.

Masks are functions of d, the distance from frequency zero in bins, and of the radius r. The radius is a share of the
image's size, so that it is the same filter at every size: 40/224 is r = 40 for 224 pixels. The wrap-around of a Fourier
transform at the borders is part of the filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from advpt.attacks.noise import SampleNoise
from advpt.defenses.base import DEFENSES, Defense, Option
from advpt.errors import DefenseError, unknown_name

MASKS = ("gaussian", "ideal", "butterworth")
RADIUS = 40 / 224


def mask(height: int, width: int, kind: str, radius: float) -> Tensor:
    """The factor of each frequency, ``[height, width // 2 + 1]`` float64 in the order of ``torch.fft.rfft2``.

    Args:
        kind: ``gaussian`` (exp(-d^2 / 2 r^2)), ``ideal`` (d <= r) or ``butterworth`` (of order 2, 1 / (1 + (d / r)^4)).
        radius: r as a share of each side.
    """
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(width, dtype=torch.float64)[None]
    ratio = torch.hypot(rows, columns) / radius
    if kind == "gaussian":
        return torch.exp(-ratio.square() / 2)
    if kind == "ideal":
        return (ratio <= 1 + 1e-9).double()  # rounding does not take the border away
    return 1 / (1 + ratio**4)


def low_pass(pixels: Tensor, kind: str, radius: float) -> Tensor:
    """The filtered images ``[..., h, w]``, not clipped. See :func:`mask`."""
    height, width = pixels.shape[-2:]
    factors = mask(height, width, kind, radius).to(pixels.device, pixels.dtype)
    return torch.fft.irfft2(torch.fft.rfft2(pixels) * factors, s=(height, width))


@DEFENSES.add
class LowPass(Defense):
    """Takes high frequencies away.

    Args:
        mask: ``gaussian``, ``ideal`` or ``butterworth``.
        radius: of the mask, as a share of the image's size.
    """

    name = "low-pass"
    summary = "low-pass filter in the frequency domain"
    linear = True
    profiles = {kind: {"mask": kind, "radius": RADIUS} for kind in MASKS}

    def __init__(self, *, mask: str = "gaussian", radius: float = RADIUS) -> None:
        self.check({"mask": mask, "radius": radius})
        self.mask, self.radius = mask, float(radius)

    @classmethod
    def check(cls, options: Mapping[str, Option]) -> None:
        if options["mask"] not in MASKS:
            raise DefenseError(unknown_name("mask", str(options["mask"]), MASKS))
        if not 0 < float(options["radius"]) < float("inf"):
            raise DefenseError(f"radius={options['radius']}: expected more than 0, as a share of the size (0.18)")

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"mask": self.mask, "radius": self.radius}

    def apply(self, pixels: Tensor, noise: SampleNoise | None) -> Tensor:
        return low_pass(pixels, self.mask, self.radius)
