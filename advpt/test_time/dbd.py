"""DBD, debiasing by directional bias (ICLR 2026): transforms move the embedding of an attacked image in one direction.

Of 31 transforms the most certain ones are kept. The mean of their differences to the image's embedding is a direction;
where the differences agree on it the image is called attacked, and its embedding is moved along far beyond the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.errors import DefenseError
from advpt.test_time.base import OWN, TEST_TIME, Cost, Draws, TestTimeDefense, Variant
from advpt.test_time.dbd_transforms import TRANSFORMS, VERSION, some, transformed
from advpt.test_time.selection import choose, pick
from advpt.test_time.views import AT_ONCE, ATTACKED_VIEWS, embed, image_features, logits_of_views

LAMBDA_HIGH, LAMBDA_LOW, TAU, KEPT = 2.5, 1.0, 0.8, 16


@dataclass(frozen=True)
class DBDSettings:
    """Settings of :class:`DBD`.

    Args:
        kept: transforms that count, those of lowest entropy.
        tau: score above which an image is called attacked.
        lambda_high, lambda_low: multiples of the direction for images that are called attacked, and for others.
    """

    kept: int = KEPT
    tau: float = TAU
    lambda_high: float = LAMBDA_HIGH
    lambda_low: float = LAMBDA_LOW


def direction(own: Tensor, others: Tensor) -> Tensor:
    """``[b, L]``: the mean difference ``d`` of the kept features ``others [b, k, L]`` to the image's ``own [b, L]``."""
    return (others - own[:, None]).mean(1)


def score(own: Tensor, others: Tensor) -> Tensor:
    """``[b]`` in [-1, 1]: the mean cosine of the differences and their mean; 0 where there is no difference."""
    return F.cosine_similarity(others - own[:, None], direction(own, others)[:, None], dim=-1).mean(1)


def debiased(own: Tensor, others: Tensor, factor: Tensor | float) -> Tensor:
    """``[b, L]``: ``own + factor * d``, not normalised; ``factor``: one for all, or ``[b, 1]``. At 1 it is the mean of
    ``others``."""
    return own + factor * direction(own, others)


@TEST_TIME.add
class DBD(TestTimeDefense):
    """Embeddings moved along the mean effect of transforms. Transforms are of the model's input at floating point, by
    image id and seed; texts are the run's own prompts."""

    name = "dbd"
    summary = "embeddings moved along the mean effect of 31 transforms (DBD, ICLR 2026)"
    settings: DBDSettings
    profiles: ClassVar[Mapping[str, DBDSettings]] = {"sound": DBDSettings()}

    @classmethod
    def check(cls, settings: DBDSettings) -> None:
        """Check the values. Raises DefenseError."""
        if not 1 <= settings.kept <= len(TRANSFORMS):
            raise DefenseError(f"kept={settings.kept}; expected 1 to {len(TRANSFORMS)}, the number of transforms")
        for name in ("tau", "lambda_high", "lambda_low"):
            if not -1e6 < (value := getattr(settings, name)) < 1e6:
                raise DefenseError(f"{name}={value}; expected a finite number")

    @property
    def draws_noise(self) -> bool:
        """Crops and noise."""
        return True

    def parameters(self) -> dict[str, Any]:
        """With the version of the transforms."""
        return super().parameters() | {"transforms": VERSION}

    def cost(self) -> Cost:
        """The image and its transforms."""
        return Cost(forward=1 + len(TRANSFORMS))

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        every = torch.arange(len(TRANSFORMS)).expand(len(pixels), -1)
        parts, images = [], max(1, AT_ONCE.get(pixels.device.type, 64) // len(TRANSFORMS))
        for start in range(0, len(pixels), images):
            part = slice(start, start + images)
            views = transformed(pixels[part], Draws(draws.keys[part], draws.seed), every[part])
            parts.append(embed(encode, views))
        return self._logits(image_features(encode, pixels), torch.cat(parts), self.settings.kept)

    def _logits(self, own: Tensor, others: Tensor, kept: int, forced: float | None = None) -> Tensor:
        """Logits ``[b, K]`` of embeddings ``own [b, L]`` and those behind transforms, ``others [b, n, L]``.

        Args:
            forced: the multiple of the direction, whatever the score.
        """
        own, others = F.normalize(own, dim=-1), F.normalize(others, dim=-1)
        with torch.no_grad():  # which ones are kept, and the gate, are constants for an attacker
            chosen = choose(logits_of_views(self.model, others), kept)
            attacked = score(own, pick(others, chosen)) > self.settings.tau
            high, low = (own.new_tensor(each) for each in (self.settings.lambda_high, self.settings.lambda_low))
            factor = torch.where(attacked, high, low)[:, None]
        kept_others = pick(others, chosen)
        return self.model.classifier.logits(debiased(own, kept_others, factor if forced is None else forced))

    def variants(self) -> tuple[Variant, ...]:
        """Through the image and 8 of the transforms, other ones in every pass: with the gate as it is, and with either
        branch forced."""
        low, high = self.settings.lambda_low, self.settings.lambda_high
        shared = {
            "defense": self.name,
            "version": self.version,
            "transforms": VERSION,
            "views": 1 + ATTACKED_VIEWS,
            "kept": self._kept_of_some,
            "text": self.model.classifier.digest,
        }
        gate = {"name": "gate as it is", "tau": self.settings.tau, "lambda_high": high, "lambda_low": low}
        return (
            self._variant("gate as it is", None, shared | gate),
            self._variant("forced low", low, shared | {"name": "forced", "lambda": low}),
            self._variant("forced high", high, shared | {"name": "forced", "lambda": high}),
        )

    @property
    def _kept_of_some(self) -> int:
        """The same share of the transforms that an attacker sees."""
        return max(1, ATTACKED_VIEWS * self.settings.kept // len(TRANSFORMS))

    def _variant(self, name: str, forced: float | None, parameters: dict[str, Any]) -> Variant:
        def logits(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
            views = transformed(pixels, draws, some(draws, ATTACKED_VIEWS))
            own, *others = embed(encode, torch.cat([pixels[:, None], views], 1)).unbind(1)
            return self._logits(own, torch.stack(others, 1), self._kept_of_some, forced)

        gradient = f"{OWN}; JPEG and fewer bits straight through"
        cost = Cost(1 + ATTACKED_VIEWS, 1 + ATTACKED_VIEWS)
        return Variant(name, logits, parameters, gradient, cost, mean_over=ATTACKED_VIEWS)
