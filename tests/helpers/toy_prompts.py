"""A text tower of two prompt numbers: the worked examples of prompt tuning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from advpt.prompts.classifier import Classifier
from advpt.test_time.prompt_tuning import PromptTuning
from advpt.test_time.selection import unit
from tests.helpers.tiny_clip import vectors


def toy(kind: type[PromptTuning], settings: Any, dtype: torch.dtype = torch.float64) -> PromptTuning:
    """A tuner on ``normalise(text_raw + P0 U + P1 W)``."""
    inputs, example = vectors("inputs", dtype), vectors("toy_prompt_tuning", dtype)

    class Toy(kind):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            self.settings, self.seed, self.context = settings, 0, example["start"]
            self.untuned = Classifier(self.text_features(self.context[None])[0], float(inputs["scale"]))
            self.model = SimpleNamespace(classifier=self.untuned)

        def text_features(self, context: Tensor) -> Tensor:
            first, second = context[:, 0, None, None], context[:, 1, None, None]
            return unit(inputs["text_raw"] + first * example["U"] + second * example["W"])

    return Toy()


def toy_features(dtype: torch.dtype = torch.float64) -> Tensor:
    """``[1, 6, 4]`` unit features of the views of one image."""
    return unit(vectors("inputs", dtype)["features_raw"])[None]
