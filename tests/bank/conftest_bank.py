"""A small shelf: a tiny CLIP, a few generated images, a library of banks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advpt.backbones.clip import Architecture, Backbone, build
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet, Preprocessing, Sample

TINY = Architecture(32, 16, 1, 64, 8, 77, 49408, 64, 1)


def make_clip(seed: int = 0) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Backbone("tiny", build(TINY))


def make_images(folder: Path, n: int, classes: int = 3, seed: int = 0, split: str = "train") -> ImageSet:
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        path = folder / f"c{i % classes}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
        samples.append(Sample(path.relative_to(folder).as_posix(), str(path), i % classes))
    names = tuple(f"class {c}" for c in range(classes))
    return ImageSet("tiny", split, tuple(samples), names, Preprocessing((16, 16), "bicubic"))


@pytest.fixture(scope="session")
def clip_model() -> Backbone:
    return make_clip()


@pytest.fixture
def pictures(tmp_path: Path) -> ImageSet:
    return make_images(tmp_path / "images", 10)


@pytest.fixture
def bank_cache(tmp_path: Path, clip_model: Backbone) -> BankCache:
    return BankCache(tmp_path / "banks", clip_model, lambda: clip_model, chunk=4)
