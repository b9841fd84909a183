"""Image transforms by name, in a fixed order."""

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    GaussianBlur,
    InterpolationMode,
    Normalize,
    RandomApply,
    RandomCrop,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)
from torchvision.transforms import functional as TF
from yacs.config import CfgNode

from dassl.utils.errors import SettingError
from dassl.utils.tools import check_choices

AUTO_AUGMENT = [
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "randaugment_fixmatch",
    "randaugment2",
]
AVAI_CHOICES = [
    "random_flip",
    "random_resized_crop",
    "normalize",
    "instance_norm",
    "random_crop",
    "random_translation",
    "center_crop",
    *AUTO_AUGMENT,
    "cutout",
    "gaussian_noise",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
]
INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


class Random2DTranslation:
    """With probability ``p`` enlarge by an eighth and crop at a random place, else resize."""

    def __init__(self, size: Any, p: float = 0.5, interpolation: Any = InterpolationMode.BILINEAR) -> None:
        self.size = tuple(size)
        self.p = p
        self.interpolation = interpolation

    def __call__(self, img: Image.Image) -> Image.Image:
        height, width = self.size
        if random.uniform(0, 1) > self.p:
            return TF.resize(img, [height, width], self.interpolation)
        big_height, big_width = round(height * 1.125), round(width * 1.125)
        top, left = random.randint(0, big_height - height), random.randint(0, big_width - width)
        return TF.crop(TF.resize(img, [big_height, big_width], self.interpolation), top, left, height, width)


class Cutout:
    """Blacken ``n_holes`` squares of side ``length`` (clipped at the border) of a ``(C, H, W)`` image."""

    def __init__(self, n_holes: int = 1, length: int = 16) -> None:
        self.n_holes = n_holes
        self.length = length

    def __call__(self, img: Tensor) -> Tensor:
        height, width = img.shape[-2:]
        out = img.clone()
        for _ in range(self.n_holes):
            top = np.random.randint(height) - self.length // 2
            left = np.random.randint(width) - self.length // 2
            rows = slice(max(top, 0), max(top + self.length, 0))
            columns = slice(max(left, 0), max(left + self.length, 0))
            out[..., rows, columns] = 0
        return out


class GaussianNoise:
    """With probability ``p`` add normal noise."""

    def __init__(self, mean: float = 0.0, std: float = 0.15, p: float = 0.5) -> None:
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, img: Tensor) -> Tensor:
        if random.uniform(0, 1) > self.p:
            return img
        return img + (torch.randn(img.size()) * self.std + self.mean)


class InstanceNormalization:
    """Zero mean and unit deviation per channel of a ``(C, H, W)`` image."""

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def __call__(self, img: Tensor) -> Tensor:
        flat = img.flatten(1)
        mean, std = flat.mean(1)[:, None, None], flat.std(1)[:, None, None]
        return (img - mean) / (std + self.eps)


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Any = None) -> Compose | None:
    """Compose the transforms chosen by name; the order of the names does not matter.

    Args:
        cfg: the whole configuration; ``INPUT`` is read.
        is_train: random training transforms, or resize and centre crop.
        choices: names; default ``INPUT.TRANSFORMS``.

    Returns:
        PIL image to ``(3, H, W)`` float tensor, or None with ``INPUT.NO_TRANSFORM``.

    Raises:
        SettingError: for a name that is unknown or not included.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = list(cfg.INPUT.TRANSFORMS if choices is None else choices)
    check_choices("transform", choices, AVAI_CHOICES)
    for name in choices:
        if name in AUTO_AUGMENT:
            raise SettingError(f"transform {name!r} (automatic augmentation) is not included in dassl-lite")
    check_choices("INPUT.INTERPOLATION", [cfg.INPUT.INTERPOLATION], list(INTERPOLATION_MODES))
    build = _build_transform_train if is_train else _build_transform_test
    normalize = Normalize(mean=cfg.INPUT.PIXEL_MEAN, std=cfg.INPUT.PIXEL_STD)
    transform = build(cfg, choices, "x".join(map(str, cfg.INPUT.SIZE)), normalize)
    if cfg.VERBOSE:
        names = ", ".join(type(step).__name__ for step in transform.transforms)
        print(f"Transforms ({'train' if is_train else 'test'}): {names}")
    return transform


def _build_transform_train(cfg: CfgNode, choices: Any, target_size: str, normalize: Any) -> Compose:
    """The training transform alone, as :func:`_build_transform_test`."""
    inp = cfg.INPUT
    size = list(inp.SIZE)
    mode = INTERPOLATION_MODES[inp.INTERPOLATION]
    steps: list[Any] = []
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        steps.append(Resize(size, interpolation=mode))
    if "random_translation" in choices:
        steps.append(Random2DTranslation(size))
    if "random_crop" in choices:
        steps.append(RandomCrop(size, padding=inp.CROP_PADDING))
    if "random_resized_crop" in choices:
        steps.append(RandomResizedCrop(size, scale=inp.RRCROP_SCALE, interpolation=mode))
    if "random_flip" in choices:
        steps.append(RandomHorizontalFlip())
    if "colorjitter" in choices:
        steps.append(ColorJitter(inp.COLORJITTER_B, inp.COLORJITTER_C, inp.COLORJITTER_S, inp.COLORJITTER_H))
    if "randomgrayscale" in choices:
        steps.append(RandomGrayscale(p=inp.RGS_P))
    if "gaussian_blur" in choices:
        steps.append(RandomApply([GaussianBlur(inp.GB_K)], p=inp.GB_P))
    steps.append(ToTensor())
    if "cutout" in choices:
        steps.append(Cutout(inp.CUTOUT_N, inp.CUTOUT_LEN))
    if "normalize" in choices:
        steps.append(normalize)
    if "gaussian_noise" in choices:
        steps.append(GaussianNoise(inp.GN_MEAN, inp.GN_STD))
    if "instance_norm" in choices:
        steps.append(InstanceNormalization())
    return Compose(steps)


def _build_transform_test(cfg: CfgNode, choices: Any, target_size: str, normalize: Any) -> Compose:
    """The test transform alone; private upstream, and yet imported by CoOp-style code.

    Args:
        cfg: the whole configuration; ``INPUT`` is read.
        choices: names, as in ``INPUT.TRANSFORMS``; those of random transforms are passed over.
        target_size: the size in words ("224x224"), which upstream prints. Not read here.
        normalize: what stands for ``normalize``.
    """
    inp = cfg.INPUT
    size = list(inp.SIZE)
    steps: list[Any] = [
        Resize(max(size), interpolation=INTERPOLATION_MODES[inp.INTERPOLATION]),
        CenterCrop(size),
        ToTensor(),
    ]
    if "normalize" in choices:
        steps.append(normalize)
    if "instance_norm" in choices:
        steps.append(InstanceNormalization())
    return Compose(steps)
