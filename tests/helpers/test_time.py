"""A tiny CLIP as test-time defenses get it."""

from __future__ import annotations

import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.prompts.classifier import from_templates
from advpt.test_time.base import DefendedModel

NAMES = ("cat", "owl", "sea")


def defended_model(clip: Backbone, names: tuple[str, ...] = NAMES) -> DefendedModel:
    """A tiny CLIP with its hand-written prompt."""
    classifier = from_templates(clip.text, names, ["a photo of a {}."], clip.logit_scale)
    return DefendedModel(classifier, clip.text, names, clip.card)


def images(n: int, side: int = 32, seed: int = 7) -> Tensor:
    """``[n, 3, side, side]`` smooth pictures in [0, 1]."""
    small = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (side, side), mode="bilinear", align_corners=True)
