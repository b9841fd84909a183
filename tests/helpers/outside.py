"""Small models that are not of the library, and photos that they can tell apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from advpt.data.images import ImageSet, Preprocessing, Sample

NAMES = ("blue", "green", "red")
SIDE = 12


def photos(folder: Path, per_class: int = 5) -> Path:
    """``<folder>/<class>/<i>.png``: noise with a faint tint."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        for i in range(per_class):
            pixels = rng.integers(100, 140, (SIDE, SIDE, 3)).astype(float)
            pixels[:, : SIDE // 2, 2 - label] += 6
            pixels[:, SIDE // 2 :, 2 - label] += 6
            path = folder / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.round().astype(np.uint8)).save(path)
    return folder


def image_set(folder: Path, size: int = SIDE) -> ImageSet:
    """The photos of a folder as a list."""
    samples = [
        Sample(f"{path.parent.name}/{path.name}", str(path), NAMES.index(path.parent.name))
        for path in sorted(folder.glob("*/*.png"))
    ]
    return ImageSet("photos", "test", tuple(samples), NAMES, Preprocessing((size, size), "bicubic"))


class LeftHalf(nn.Module):
    """A network that looks at the left half, with what training mode changes."""

    classnames, size = NAMES, SIDE

    def __init__(self, scale: float = 40.0) -> None:
        super().__init__()
        self.scale = scale
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(3).flip(0)[:, :, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.norm(self.mix(pixels - 0.5)).tanh()
        return self.scale * features[..., : pixels.shape[-1] // 2].mean((2, 3))


def rounded(pixels: Tensor) -> Tensor:
    """Multiples of 1/16: no gradient."""
    return (16 * pixels).round() / 16


class LooksAway:
    """A network behind a mirror and rounding: what breaks its network's left half leaves it, until an attacker looks
    through the mirror. One of its variants leads nowhere."""

    classnames, size, seed = NAMES, SIDE, 3

    def __init__(self) -> None:
        self.undefended = LeftHalf()
        self.variants: dict[str, Callable[[Tensor], Tensor]] = {"masked": self.__call__, "mirrored": self.mirrored}

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.undefended(rounded(pixels.flip(-1)) + 0 * pixels)

    def mirrored(self, pixels: Tensor) -> Tensor:
        return self.undefended(pixels.flip(-1))


class Masks(LooksAway):
    """Rounding alone, and no variant that leads anywhere: only what breaks its network breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.variants = {"masked": self.__call__}

    def __call__(self, pixels: Tensor) -> Tensor:
        return self.undefended(rounded(pixels) + 0 * pixels)


def no_gradient(pixels: Tensor) -> Tensor:
    """The network through another library."""
    numbers = pixels.numpy()[..., : SIDE // 2].mean((2, 3))
    return torch.from_numpy(40 * numbers[:, ::-1].copy())


def make() -> LooksAway:
    """What ``--model tests.helpers.outside:make`` names."""
    return LooksAway()
