"""Ensembles over views: of random crops, with four rules for the mean, and TTE's flips and shifted crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.data.views import generator_of
from advpt.errors import DefenseError
from advpt.test_time import selection
from advpt.test_time.base import TEST_TIME, Cost, Draws, TestTimeDefense, Variant
from advpt.test_time.multi_view import MultiView
from advpt.test_time.views import ViewSettings, embed, image_features, logits_of_views


@TEST_TIME.add
class MeanProbability(MultiView):
    """The logarithm of the mean prediction over all views."""

    name = "mean"
    summary = "mean prediction over views"
    profiles: ClassVar = {"sound": ViewSettings()}

    def combine(self, embeddings: Tensor) -> Tensor:
        return selection.log_mean_probability(self.logits_of_views(embeddings))


@dataclass(frozen=True)
class KeptSettings(ViewSettings):
    """Settings of a mean over the views of lowest entropy.

    Args:
        rho: share of the views that is kept, at least one.
    """

    rho: float = 0.1


def check_share(name: str, share: float) -> None:
    """Raise DefenseError for a share that is not in (0, 1]."""
    if not 0 < share <= 1:
        raise DefenseError(f"{name} is {share}; expected a share of the views, above 0 and at most 1")


@TEST_TIME.add
class ConfidentMean(MultiView):
    """The logarithm of the mean prediction over the views of lowest entropy."""

    name = "conf"
    summary = "mean prediction over the views of lowest entropy"
    profiles: ClassVar = {"sound": KeptSettings()}
    settings: KeptSettings

    @classmethod
    def check(cls, settings: KeptSettings) -> None:  # type: ignore[override]
        super().check(settings)
        check_share("rho", settings.rho)

    def combine(self, embeddings: Tensor) -> Tensor:
        logits = self.logits_of_views(embeddings)
        kept = selection.kept_count(self.settings.rho, logits.shape[1])
        return selection.log_mean_probability(selection.pick(logits, selection.choose(logits, kept)))

    def own_variants(self) -> tuple[Variant, ...]:
        return (self.mean_of_kept_views(self.settings.rho),)


@TEST_TIME.add
class MeanLogits(MultiView):
    """The mean of the views' logits."""

    name = "logits"
    summary = "mean logits over views"
    profiles: ClassVar = {"sound": ViewSettings()}

    def combine(self, embeddings: Tensor) -> Tensor:
        return self.logits_of_views(embeddings).mean(1)

    def own_variants(self) -> tuple[Variant, ...]:
        return (self.through_views("mean logits of views", self.combine),)


@TEST_TIME.add
class MeanFeature(MultiView):
    """The logits of the views' mean feature, of unit length again: those of ``logits`` at another temperature for each
    image."""

    name = "feature"
    summary = "logits of the mean feature over views"
    profiles: ClassVar = {"sound": ViewSettings()}

    def combine(self, embeddings: Tensor) -> Tensor:
        return self.model.classifier.logits(selection.unit(embeddings).mean(1))

    def own_variants(self) -> tuple[Variant, ...]:
        return (self.through_views("logits of the mean feature", self.combine),)


# --- TTE ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TteSettings:
    """Settings of TTE.

    Args:
        crops: shifted crops of the image; as many of its flip. pad: zeros around it, as a share of its size.
        offsets: a number that the crops' places, equal for all images, are drawn by.
    """

    crops: int = 4
    pad: float = 0.125
    offsets: int = 0


def draw_offsets(n: int, margin: tuple[int, int], seed: int) -> list[tuple[int, int]]:
    """``n`` places (row, column) of an image within its padded self, different ones as far as there are.

    Args:
        margin: zeros on each side, above and beside, in pixels.
    """
    rows, columns = (2 * each + 1 for each in margin)
    order = torch.randperm(rows * columns, generator=generator_of(seed, "tte")).tolist()
    return [divmod(order[i % len(order)], columns) for i in range(n)]


def tte_views(pixels: Tensor, margin: tuple[int, int], offsets: list[tuple[int, int]]) -> Tensor:
    """``[b, 2 (n + 1), 3, h, w]``: image, flip, crops at ``offsets`` of the image with ``margin`` zeros around it, the
    same crops of the flip. Differentiable in ``pixels [b, 3, h, w]``."""
    height, width = pixels.shape[-2:]
    down, across = margin
    flip = pixels.flip(-1)
    padded = [F.pad(each, (across, across, down, down)) for each in (pixels, flip)]
    crops = [each[..., y : y + height, x : x + width] for each in padded for y, x in offsets]
    return torch.stack([pixels, flip, *crops], 1)


@TEST_TIME.add
class TTE(TestTimeDefense):
    """The mean of the logits of an image, its flip and shifted crops of both (Perez et al., ICCV workshop 2021)."""

    name = "tte"
    summary = "mean logits over the image, its flip and shifted crops (TTE)"
    profiles: ClassVar = {"sound": TteSettings()}
    settings: TteSettings

    @classmethod
    def check(cls, settings: TteSettings) -> None:
        if settings.crops < 0:
            raise DefenseError(f"crops is {settings.crops}; expected 0 or more")
        if not 0 <= settings.pad <= 1:
            raise DefenseError(f"pad is {settings.pad}; expected a share of the image's size, 0 to 1")

    def views(self, pixels: Tensor) -> Tensor:
        """``[b, 2 (crops + 1), 3, h, w]``, the image itself first."""
        height, width = pixels.shape[-2:]
        margin = (round(self.settings.pad * height), round(self.settings.pad * width))
        return tte_views(pixels, margin, draw_offsets(self.settings.crops, margin, self.settings.offsets))

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        others = embed(encode, self.views(pixels)[:, 1:])
        return self._mean(torch.cat([image_features(encode, pixels)[:, None], others], 1))

    def _mean(self, embeddings: Tensor) -> Tensor:
        return logits_of_views(self.model, embeddings).mean(1)

    def variants(self) -> tuple[Variant, ...]:
        """The defense itself: the places of its crops are fixed, and an attacker may know them."""

        def logits(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
            return self._mean(embed(encode, self.views(pixels)))

        n = self.cost().forward
        return (Variant("exact", logits, self.parameters(), cost=Cost(n, n), draws=False),)

    def cost(self) -> Cost:
        return Cost(2 * (self.settings.crops + 1))
