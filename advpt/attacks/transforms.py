"""Transforms of inputs and gradients that make iterative attacks transfer to other networks: DI, TI, MI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.attacks.noise import SampleNoise
from advpt.errors import AttackError


@dataclass(frozen=True)
class Diverse:
    """Random resizing and zero-padding (DI, Xie et al., CVPR 2019), sizes as multiples of the image's side.

    With ``probability`` an image is resized to a side in [low, high) and put at a random place of a black canvas.
    """

    low: float
    high: float
    canvas: float
    probability: float
    mode: str


DIVERSE = {
    "enlarge": Diverse(1, 330 / 299, 330 / 299, 0.7, "nearest"),  # RAP's official code, for 299 pixels
    "shrink": Diverse(0.5, 1, 1, 0.7, "nearest"),  # AdvPT's released code, [112, 224) of 224
    "slight": Diverse(0.9, 1, 1, 0.5, "bilinear"),  # torchattacks' DIFGSM, as in TAPT's tables
}


def diverse(images: Tensor, kind: Diverse, noise: SampleNoise) -> list[Tensor]:
    """Each image of ``[b, 3, s, s]`` through a draw of its own; sides may differ where the canvas is larger."""
    side, transformed = images.shape[-1], []
    if images.shape[-2] != side:
        raise AttackError(f"diverse input needs square images, got {list(images.shape[-2:])}")
    canvas = round(side * kind.canvas)
    low, high = round(side * kind.low), round(side * kind.high)
    for image, (apply, size_, top_, left_) in zip(images, noise.uniform(torch.empty(len(images), 4), 0, 1).tolist()):
        if apply >= kind.probability:
            transformed.append(image)
            continue
        size = low + int(size_ * max(1, high - low))
        rest = canvas - size
        top, left = int(top_ * max(1, rest)), int(left_ * max(1, rest))
        small = F.interpolate(image[None], (size, size), mode=kind.mode)[0]
        transformed.append(F.pad(small, (left, rest - left, top, rest - top)))
    return transformed


def through_diverse(forward: Callable[[Tensor], Tensor], images: Tensor, kind: Diverse, noise: SampleNoise) -> Tensor:
    """``forward`` of diverse images, in their order; images of equal side go together."""
    transformed = diverse(images, kind, noise)
    sides: dict[int, list[int]] = {}
    for i, image in enumerate(transformed):
        sides.setdefault(image.shape[-1], []).append(i)
    outputs = torch.cat([forward(torch.stack([transformed[i] for i in rows])) for rows in sides.values()])
    order = torch.tensor([i for rows in sides.values() for i in rows], device=outputs.device)
    return outputs[order.argsort()]


def smooth(gradient: Tensor) -> Tensor:
    """The gradient convolved with a 5 x 5 Gaussian that spans three standard deviations to each side, summing to 1
    (TI, Dong et al., CVPR 2019)."""
    bell = torch.exp(-0.5 * torch.linspace(-3, 3, 5, dtype=torch.float64) ** 2)
    kernel = torch.outer(bell, bell)
    kernel = (kernel / kernel.sum()).to(gradient)
    channels = gradient.shape[1]
    return F.conv2d(gradient, kernel.expand(channels, 1, 5, 5), padding=2, groups=channels)


def accumulate(gradient: Tensor, velocity: Tensor, decay: float) -> Tensor:
    """decay x velocity + the gradient divided by its mean absolute value per image (MI, Dong et al., CVPR 2018)."""
    size = gradient.abs().flatten(1).mean(1).clamp_min(1e-12)
    return decay * velocity + gradient / size[:, None, None, None]
