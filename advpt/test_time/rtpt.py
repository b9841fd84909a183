"""R-TPT (Sheng et al., CVPR 2025): the entropy of each kept view by itself, and an answer over all views, weighted by
how near each is to the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advpt.errors import DefenseError
from advpt.test_time.base import TEST_TIME, Variant
from advpt.test_time.prompt_tuning import Objective, PromptTuning, TuningSettings, ViewFeatures
from advpt.test_time.selection import entropy, neighbour_score, softmax_weights

ANSWERS = ("logits", "probabilities")
OTHERS = ("index", "below-1")


def mean_entropy(logits: Tensor) -> Tensor:
    """``[...]`` mean over views of the entropies of their predictions, of logits ``[..., v, K]``. The entropy of the
    mean prediction is this plus the mean divergence of the predictions from their mean."""
    return entropy(logits).mean(-1)


def released_score(features: Tensor, k: int) -> Tensor:
    """``[..., V]``: as :func:`~advpt.test_time.selection.neighbour_score`, but "the others" are all views whose cosine
    is computed to be below 1, as in the released code: rounding decides whether a view is its own neighbour, and equal
    views lose each other. Where fewer than ``k`` remain the mean is over those."""
    similarity = features @ features.transpose(-1, -2)
    nearest = similarity.masked_fill(similarity >= 1, -torch.inf).topk(min(k, features.shape[-2]), dim=-1).values
    there = nearest.isfinite()
    return nearest.masked_fill(~there, 0).sum(-1) / there.sum(-1).clamp(min=1)


def weighted_answer(logits: Tensor, weights: Tensor, answer: str = "logits") -> Tensor:
    """``[..., K]``: the weighted mean over views of logits ``[..., V, K]``, weights ``[..., V]``; with ``answer``
    ``probabilities`` the logarithm of that of the predictions."""
    if answer == "logits":
        return (weights[..., None] * logits).sum(-2)
    smallest = torch.finfo(weights.dtype).tiny
    return (logits.log_softmax(-1) + weights.clamp(min=smallest).log()[..., None]).logsumexp(-2)


@dataclass(frozen=True)
class RTPTSettings(TuningSettings):
    """Settings of R-TPT.

    Args:
        neighbours: views whose cosines make a view's score, at most all others.
        temperature: of the weights' softmax.
        answer: ``logits`` or ``probabilities`` are averaged.
        others: what a view's others are: all but itself by ``index``, or all whose computed cosine is ``below-1``.
    """

    neighbours: int = 20
    temperature: float = 0.01
    answer: str = "logits"
    others: str = "index"


@TEST_TIME.add
class RTPT(PromptTuning):
    """The mean entropy of the kept views; the answer is over all views, weighted by nearness."""

    name: ClassVar[str] = "rtpt"
    summary: ClassVar[str] = "tunes the prompt on each image: entropy of each view; answer weighted over views"
    profiles: ClassVar[Mapping[str, Any]] = {
        "sound": RTPTSettings(),
        "released": RTPTSettings(source="file", eight_bits="floor", others="below-1"),
    }
    settings: RTPTSettings

    @classmethod
    def check(cls, settings: Any) -> None:
        super().check(settings)
        if settings.neighbours < 1 or settings.temperature <= 0:
            raise DefenseError(
                f"neighbours is {settings.neighbours} and temperature {settings.temperature}; expected at least 1 "
                "neighbour and a temperature above 0"
            )
        for key, allowed in (("answer", ANSWERS), ("others", OTHERS)):
            if getattr(settings, key) not in allowed:
                raise DefenseError(f"{key} is {getattr(settings, key)!r}; expected {' or '.join(allowed)}")
        if settings.others == "below-1" and settings.views <= settings.neighbours:
            raise DefenseError(
                f"the released weights need more views than neighbours; got {settings.views} and "
                f"{settings.neighbours}. Use others=index, or fewer neighbours"
            )

    def parameters(self) -> dict[str, Any]:
        own: dict[str, Any] = {}
        if self.settings.others == "below-1":  # rounding decides
            own = {"cosines": f"float32 on {self.untuned.features.device.type}"}
        return super().parameters() | own

    def objective(self, inputs: ViewFeatures, untuned: Tensor, kept: Tensor) -> Objective:
        return lambda logits, text: mean_entropy(logits)

    def weights(self, features: Tensor) -> Tensor:
        """``[S, V]`` of unit features ``[S, V, L]``, whatever the prompt."""
        settings = self.settings
        if settings.others == "below-1":
            score = released_score(features.float(), settings.neighbours).to(features.dtype)
        else:
            score = neighbour_score(features, settings.neighbours)
        return softmax_weights(score, settings.temperature)

    def answer(self, inputs: ViewFeatures, untuned: Tensor, tuned: Tensor) -> Tensor:
        return weighted_answer(tuned, self.weights(inputs.features), self.settings.answer)

    def variants(self) -> tuple[Variant, ...]:
        return (*self.unrolled(), self.over_views("weighted untuned", 0), self.mean_of_views())
