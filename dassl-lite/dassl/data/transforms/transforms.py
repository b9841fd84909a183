"""Image transforms by name, in a fixed order."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import Compose, InterpolationMode, Normalize
from torchvision.transforms import functional as TF
from yacs.config import CfgNode

from dassl.utils.tools import SettingError, check_choices

AVAI_CHOICES = [
    "random_flip", "random_resized_crop", "normalize", "instance_norm", "random_crop", "random_translation",
    "center_crop", "imagenet_policy", "cifar10_policy", "svhn_policy", "randaugment", "randaugment_fixmatch",
    "randaugment2", "cutout", "gaussian_noise", "colorjitter", "randomgrayscale", "gaussian_blur",
]  # fmt: skip
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
        if name.endswith("_policy") or name.startswith("randaugment"):
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
    jitter = (inp.COLORJITTER_B, inp.COLORJITTER_C, inp.COLORJITTER_S, inp.COLORJITTER_H)
    of_images: dict[str, Callable[[], Any]] = {
        "random_translation": lambda: Random2DTranslation(size),
        "random_crop": lambda: T.RandomCrop(size, padding=inp.CROP_PADDING),
        "random_resized_crop": lambda: T.RandomResizedCrop(size, scale=inp.RRCROP_SCALE, interpolation=mode),
        "random_flip": T.RandomHorizontalFlip,
        "colorjitter": lambda: T.ColorJitter(*jitter),
        "randomgrayscale": lambda: T.RandomGrayscale(p=inp.RGS_P),
        "gaussian_blur": lambda: T.RandomApply([T.GaussianBlur(inp.GB_K)], p=inp.GB_P),
    }
    of_tensors: dict[str, Callable[[], Any]] = {
        "cutout": lambda: Cutout(inp.CUTOUT_N, inp.CUTOUT_LEN),
        "normalize": lambda: normalize,
        "gaussian_noise": lambda: GaussianNoise(inp.GN_MEAN, inp.GN_STD),
        "instance_norm": InstanceNormalization,
    }
    crops = "random_crop" in choices or "random_resized_crop" in choices
    resize = [] if crops else [T.Resize(size, interpolation=mode)]
    first = [make() for name, make in of_images.items() if name in choices]
    then = [make() for name, make in of_tensors.items() if name in choices]
    return Compose([*resize, *first, T.ToTensor(), *then])


def _build_transform_test(cfg: CfgNode, choices: Any, target_size: str, normalize: Any) -> Compose:
    """The test transform alone; private upstream, and yet imported by CoOp-style code.

    Args:
        cfg: the whole configuration; ``INPUT`` is read.
        choices: names, as in ``INPUT.TRANSFORMS``; those of random transforms are passed over.
        target_size: the size in words ("224x224"), which upstream prints. Not read here.
        normalize: what stands for ``normalize``.
    """
    size, mode = list(cfg.INPUT.SIZE), INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]
    steps: list[Any] = [T.Resize(max(size), interpolation=mode), T.CenterCrop(size), T.ToTensor()]
    if "normalize" in choices:
        steps.append(normalize)
    if "instance_norm" in choices:
        steps.append(InstanceNormalization())
    return Compose(steps)
