"""A tiny CLIP as test-time defenses get it, and worked examples of their formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.bank.defended_input import Encode
from advpt.prompts.classifier import from_templates
from advpt.test_time.base import DefendedModel

NAMES = ("cat", "owl", "sea")
VECTORS = Path(__file__).resolve().parents[1] / "test_time" / "vectors.json"
# Tolerances of the worked examples, by precision.
DTYPES: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-6, "atol": 1e-7},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}


def defended_model(clip: Backbone, names: tuple[str, ...] = NAMES) -> DefendedModel:
    """A tiny CLIP with its hand-written prompt."""
    classifier = from_templates(clip.text, names, ["a photo of a {}."], clip.logit_scale)
    return DefendedModel(classifier, clip.text, names, clip.card)


def images(n: int, side: int = 32, seed: int = 7) -> Tensor:
    """``[n, 3, side, side]`` smooth pictures in [0, 1]."""
    small = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (side, side), mode="bilinear", align_corners=True)


def vectors(section: str, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """A section of the worked examples, lists of numbers as tensors, of whole numbers as int64."""
    return {key: _tensors(value, dtype) for key, value in json.loads(VECTORS.read_text())[section].items()}


def _tensors(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(each, dtype) for key, each in value.items()}
    if isinstance(value, list) and not any(isinstance(each, (dict, str)) for each in value):
        made = torch.tensor(value, dtype=torch.float64) if value else torch.zeros(0, dtype=torch.int64)
        return made.to(dtype) if "." in json.dumps(value) else made.long()
    return [_tensors(each, dtype) for each in value] if isinstance(value, list) else value


class Counter:
    """An encoder that counts the images that it gets."""

    def __init__(self, encode: Encode) -> None:
        self.encode, self.images = encode, 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.images += len(pixels)
        return self.encode(pixels)
