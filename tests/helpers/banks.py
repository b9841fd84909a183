"""A CLIP of one layer a tower, and a few generated images for banks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from advpt.attacks import parse
from advpt.backbones.clip import Architecture, Backbone, backbone_of, build
from advpt.bank.store import Bank
from advpt.data.images import ImageSet, Preprocessing, Sample
from advpt.files import tensor_digest
from advpt.prompts.classifier import Classifier

TINY = Architecture(32, 16, 1, 64, 8, 77, 49408, 64, 1)


def make_clip(seed: int = 0) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return backbone_of("tiny", build(TINY))


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


FKL, CE = parse("pgd2-fkl@8"), parse("pgd2-ce@8")


def classifier(seed: int = 0) -> Classifier:
    generator = torch.Generator().manual_seed(seed)
    return Classifier(F.normalize(torch.randn(3, 32, generator=generator), dim=-1), 20.0)


def content_digest(bank: Bank) -> str:
    """SHA-256 over all rows, whatever the shards: equal for equal banks."""
    sha = hashlib.sha256(json.dumps(bank.ids).encode())
    sha.update(tensor_digest(bank.columns).encode())
    return sha.hexdigest()
