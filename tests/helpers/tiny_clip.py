"""A tiny CLIP as test-time defenses get it, and worked examples of their formulas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.bank.defended_input import Encode
from advpt.prompts.classifier import Classifier, from_templates
from advpt.test_time import parse
from advpt.test_time.base import DefendedModel, Draws, Variant

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


def vectors(section: str, dtype: torch.dtype = torch.float64, file: Path = VECTORS) -> dict[str, Any]:
    """A section of the worked examples in ``file``, lists of numbers as tensors, of whole numbers as int64."""
    return {key: _tensors(value, dtype) for key, value in json.loads(file.read_text())[section].items()}


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


def toy_model(text: Tensor, scale: float) -> DefendedModel:
    """A model of raw text features ``[K, L]``, without towers."""
    classifier = Classifier(torch.nn.functional.normalize(text, dim=-1), scale)
    names = tuple(f"class {i}" for i in range(len(text)))
    return DefendedModel(classifier, cast(Any, None), names, cast(Any, None))


def smooth_encoder(pixels: Tensor) -> Tensor:
    """A small smooth tower, pixels ``[b, 3, 8, 8]`` to embeddings ``[b, 4]``, float64."""
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(192, 4, generator=generator, dtype=torch.float64) / 5 for _ in range(2))
    flat = pixels.flatten(1)
    return flat @ first + (flat @ second).tanh()


def central_differences(text: str, side: int = 8, directions: int = 5, step: float = 1e-5) -> Iterator[float]:
    """For each variant of a defense, the largest relative error of the derivative of the cross-entropy along random
    directions, against central differences in float64 with the attacker's draws fixed."""
    words = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    defense = parse(text).build(toy_model(words, 10.0))
    x, labels = images(2, side).double(), torch.tensor([0, 2])
    draws = Draws.of_attacker(torch.Generator().manual_seed(3), 2)
    generator = torch.Generator().manual_seed(4)
    for variant in defense.variants():

        def loss(pixels: Tensor, variant: Variant = variant) -> Tensor:
            return torch.nn.functional.cross_entropy(variant.logits(smooth_encoder, pixels, draws), labels)

        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            gradient = torch.autograd.grad(loss(leaf), leaf)[0]
        errors = []
        for _ in range(directions):
            direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            measured = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
            errors.append(float(abs(measured - (gradient * direction).sum()) / abs(measured)))
        yield max(errors)
