"""ZERO: the confident views of an image vote (Farina et al., NeurIPS 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.test_time import selection
from advpt.test_time.base import TEST_TIME, Variant
from advpt.test_time.ensemble import check_share
from advpt.test_time.multi_view import MultiView
from advpt.test_time.views import ViewSettings


@dataclass(frozen=True)
class ZeroSettings(ViewSettings):
    """Settings of ZERO.

    Args:
        gamma: share of the views that votes, at least one.
    """

    gamma: float = 0.3


def count_votes(logits: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Votes ``[b, K]`` of the ``kept`` views of lowest entropy for the class of their largest logit, and the class
    ``[b]`` that wins.

    Between classes of equally many votes, the most certain of the other views that is for one of them decides; where
    none is, the logits of the most certain of the other views decide between them. Where no view is left over, those of
    the most certain view do.

    Args:
        logits: ``[b, V, K]``.
    """
    ordered = selection.pick(logits, selection.by_certainty(logits))
    favourites = ordered.argmax(-1)
    votes = F.one_hot(favourites[:, :kept], logits.shape[-1]).sum(1)
    tied = votes == votes.amax(1, keepdim=True)
    others = favourites[:, kept:]
    first = ordered[:, min(kept, logits.shape[1] - 1) if others.shape[1] else 0]
    winner = first.masked_fill(~tied, -torch.inf).argmax(-1)
    if others.shape[1]:
        among = tied.gather(1, others)
        decides = others.gather(1, among.int().argmax(1, keepdim=True))[:, 0]
        winner = torch.where(among.any(1), decides, winner)
    return votes, winner


@TEST_TIME.add
class Zero(MultiView):
    """The votes of the views of lowest entropy."""

    name = "zero"
    summary = "votes of the views of lowest entropy (ZERO)"
    counts_votes = True
    profiles: ClassVar = {"sound": ZeroSettings()}
    settings: ZeroSettings

    @classmethod
    def check(cls, settings: ZeroSettings) -> None:  # type: ignore[override]
        super().check(settings)
        check_share("gamma", settings.gamma)

    def combine(self, embeddings: Tensor) -> Tensor:
        """The share of votes of each class, half a vote more for the winner."""
        logits = self.logits_of_views(embeddings)
        kept = selection.kept_count(self.settings.gamma, logits.shape[1])
        votes, winner = count_votes(logits, kept)
        return (votes + 0.5 * F.one_hot(winner, votes.shape[1])).to(logits) / kept

    def own_variants(self) -> tuple[Variant, ...]:
        return (self.mean_of_kept_views(self.settings.gamma),)
