"""Prompts in both towers of a CLIP whose towers differ in everything."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from advpt.backbones.clip import Architecture, Backbone
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings

WIDE = Architecture(32, 32, 3, 128, 16, 77, 49408, 64, 4)  # towers of different width, depth and number of heads
NAMES = ["cat", "St. Bernard", "great_white_shark"]


def settings(layout: str, depth: int = 3, n: int = 2, **other: object) -> ContextSettings:
    plain = ContextSettings(n, False, "a photo of a", "end", "fp32")
    return dataclasses.replace(plain, layout=layout, n_vision=n, depth_text=depth, depth_vision=depth, **other)


def make(clip: Backbone, layout: str, seed: int = 0, **other: object) -> PromptLearner:
    start = torch.Generator().manual_seed(seed)
    chosen = settings(layout, **other)
    learner = PromptLearner(clip.text, NAMES, chosen, start, clip.card)
    with torch.no_grad():  # far enough from zero that a misplaced token shows
        for p in learner.parameters():
            p.add_(torch.randn(p.shape, generator=start))
    return learner


def pixels(n: int = 3) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(7))
