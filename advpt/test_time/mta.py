"""MTA: the mode of an image's views, each counted by how well it belongs (Zanella and Ben Ayed, CVPR 2024)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.errors import DefenseError
from advpt.test_time import selection
from advpt.test_time.base import TEST_TIME, Variant
from advpt.test_time.ensemble import check_share
from advpt.test_time.multi_view import MultiView
from advpt.test_time.views import ViewSettings

SMALLEST = 1e-12  # of a squared bandwidth: equal views have none
TOLERANCE = 1e-6  # of the change that ends an iteration


@dataclass(frozen=True)
class MtaSettings(ViewSettings):
    """Settings of MTA.

    Args:
        lambda_y: weight of the inlierness scores' entropy. lambda_q: of their agreement between views of like
            predictions.
        neighbours: share of the other views that a view's bandwidth is of.
        rounds: at most. inner: iterations of each of a round's two halves, at most.
    """

    lambda_y: float = 0.2
    lambda_q: float = 4.0
    neighbours: float = 0.3
    rounds: int = 5
    inner: int = 5


def bandwidths(features: Tensor, k: int) -> Tensor:
    """``[b, V]`` squared bandwidths: half the mean of the ``k`` smallest squared distances to the other views.

    Args:
        features: ``[b, V, L]`` of unit length, V at least 2.
    """
    views = features.shape[1]
    own = torch.eye(views, dtype=torch.bool, device=features.device)
    squared = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = squared.masked_fill(own, torch.inf).topk(k, dim=-1, largest=False).values
    return (nearest.mean(-1) / 2).clamp_min(SMALLEST)


@dataclass(frozen=True, eq=False)
class ModeSearch:
    """The two alternating steps of MTA, for a batch of images.

    Args:
        features: ``[b, V, L]`` of unit length; the image's own comes first.
        predictions: ``[b, V, K]`` of the views.
    """

    features: Tensor
    predictions: Tensor
    settings: MtaSettings = MtaSettings()

    def run(self) -> tuple[Tensor, Tensor]:
        """The mode ``[b, L]``, of unit length, and the inlierness ``[b, V]``, which sums to 1."""
        mode, log_y = self.start()
        running = torch.ones(len(mode), 1, dtype=torch.bool, device=mode.device)
        for _ in range(self.settings.rounds):
            moved, log_moved = self.round(mode, log_y)
            still = running & _changed(moved, mode)
            mode, log_y = torch.where(running, moved, mode), torch.where(running, log_moved, log_y)
            if not bool((running := still).any()):
                break
        return mode, log_y.exp()

    def start(self) -> tuple[Tensor, Tensor]:
        """The image's own feature ``[b, L]`` and the logarithm ``[b, V]`` of equal inlierness."""
        return self.features[:, 0], self.features.new_full(self.features.shape[:2], -math.log(self.features.shape[1]))

    def round(self, mode: Tensor, log_y: Tensor) -> tuple[Tensor, Tensor]:
        """Both after one round."""
        density = self.log_density(mode).exp()
        log_y = self._repeat(lambda now: self.inlierness(density, now), log_y, torch.exp)
        return self._repeat(lambda now: self.shifted(now, log_y), mode, lambda now: now), log_y

    def _repeat(self, step: Callable[[Tensor], Tensor], value: Tensor, compared: Callable[[Tensor], Tensor]) -> Tensor:
        """``value [b, ...]`` after steps until it stays, for each image by itself."""
        running = torch.ones(len(value), 1, dtype=torch.bool, device=value.device)
        for _ in range(self.settings.inner):
            new = step(value)
            still = running & _changed(compared(new), compared(value))
            value = torch.where(running, new, value)
            if not bool((running := still).any()):
                break
        return value

    @functools.cached_property
    def bandwidth(self) -> Tensor:
        """See :func:`bandwidths`."""
        return bandwidths(self.features, max(1, int(self.settings.neighbours * (self.features.shape[1] - 1))))

    @functools.cached_property
    def affinity(self) -> Tensor:
        """``[b, V, V]``: products of the views' predictions."""
        return self.predictions @ self.predictions.mT

    def log_density(self, mode: Tensor) -> Tensor:
        """``[b, V]``: minus each view's squared distance to ``mode [b, L]`` over twice its squared bandwidth."""
        return -(self.features - mode[:, None]).square().sum(-1) / (2 * self.bandwidth)

    def inlierness(self, density: Tensor, log_y: Tensor) -> Tensor:
        """The next logarithm ``[b, V]``: views in dense places, and like views of them, count more."""
        agreement = (self.affinity @ log_y.exp()[..., None])[..., 0]
        return ((density + self.settings.lambda_q * agreement) / self.settings.lambda_y).log_softmax(-1)

    def shifted(self, mode: Tensor, log_y: Tensor) -> Tensor:
        """The next mode ``[b, L]``: the views' mean, weighted by density and inlierness, of unit length."""
        weights = (self.log_density(mode) + log_y).softmax(-1)
        return F.normalize((weights[..., None] * self.features).sum(1), dim=-1)


def _changed(new: Tensor, old: Tensor) -> Tensor:
    """``[b, 1]`` bool: the image's row moved."""
    return (new - old).detach().norm(dim=-1, keepdim=True) >= TOLERANCE


@TEST_TIME.add
class MTA(MultiView):
    """The logits of the mode of the views' features, at the length of the image's own embedding."""

    name = "mta"
    summary = "logits of the mode of the views' features (MTA)"
    profiles: ClassVar = {"sound": MtaSettings()}
    settings: MtaSettings

    @classmethod
    def check(cls, settings: MtaSettings) -> None:  # type: ignore[override]
        super().check(settings)
        check_share("neighbours", settings.neighbours)
        if settings.lambda_y <= 0 or settings.lambda_q < 0:
            given = f"lambda_y is {settings.lambda_y} and lambda_q {settings.lambda_q}"
            raise DefenseError(f"{given}; expected lambda_y above 0 and lambda_q not below 0")
        if min(settings.rounds, settings.inner) < 1:
            raise DefenseError(f"rounds is {settings.rounds} and inner {settings.inner}; expected 1 or more of each")

    def combine(self, embeddings: Tensor) -> Tensor:
        if embeddings.shape[1] == 1:
            return self.model.classifier.logits(embeddings[:, 0])
        predictions = self.logits_of_views(embeddings).softmax(-1)
        mode, _ = ModeSearch(selection.unit(embeddings), predictions, self.settings).run()
        return self.model.classifier.logits(embeddings[:, 0].norm(dim=-1, keepdim=True) * mode)

    def own_variants(self) -> tuple[Variant, ...]:
        """Through all rounds, bandwidths and affinities included."""
        numbers = ("lambda_y", "lambda_q", "neighbours", "rounds", "inner")
        values = {name: getattr(self.settings, name) for name in numbers}
        return (self.through_views("unrolled", self.combine, algorithm=self.version, **values),)
