"""SS-TPT (Kim et al., ICML 2026): views are weighted by their suitability, how near they are to the others, and by
their stability, how little a weak augmentation changes their prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.data.weak import weak_augmentation
from advpt.errors import DefenseError
from advpt.prompts.adamw import SMOOTH_STEP
from advpt.test_time import views
from advpt.test_time.base import TEST_TIME, Cost, Draws, Variant
from advpt.test_time.prompt_tuning import Objective, PromptTuning, TuningSettings, ViewFeatures
from advpt.test_time.rtpt import mean_entropy, weighted_answer
from advpt.test_time.selection import softmax_weights, unit

DIVERGENCES = ("usual", "reversed")
SMALLEST = 1e-8  # added to what is divided by, and the least probability of the loss
CONSTANT = "with constant weights"


def suitability(features: Tensor) -> Tensor:
    """``[..., V]``: one over each view's mean squared distance from the others, of unit features ``[..., V, L]``."""
    squared = (features[..., :, None, :] - features[..., None, :, :]).square().sum(-1)
    return 1 / (squared.sum(-1) / max(1, features.shape[-2] - 1) + SMALLEST)


def js_divergence(p: Tensor, q: Tensor, form: str = "usual") -> Tensor:
    """``[...]`` Jensen-Shannon divergence in nats of probabilities ``[..., K]``, to each of which a little is added:
    half the sum of KL(p | m) and KL(q | m), m their mean; ``reversed``, of KL(m | p) and KL(m | q), as in the released
    code."""
    p, q = p + SMALLEST, q + SMALLEST
    m = (p + q) / 2
    log_p, log_q, log_m = p.log(), q.log(), m.log()
    if form == "reversed":
        return (m * (log_m - (log_p + log_q) / 2)).sum(-1).clamp(min=0)
    return ((p * (log_p - log_m) + q * (log_q - log_m)).sum(-1) / 2).clamp(min=0)


def stability(logits: Tensor, weak: Tensor, form: str = "usual") -> Tensor:
    """``[..., V]``: one over the divergence of the predictions of views and of their weak augmentations, of logits
    ``[..., V, K]`` each. In float64: the divergence is a small difference of large sums."""
    p, q = (each.double().softmax(-1) for each in (logits, weak))
    return (1 / (js_divergence(p, q, form) + SMALLEST)).to(logits.dtype)


def view_weights(suited: Tensor, stable: Tensor, ratio: float, temperature: float) -> Tensor:
    """``[..., V]`` weights that sum to 1, of suitability and stability ``[..., V]``, each scaled to [0, 1] over the
    views; ``ratio``: the share of suitability."""
    scores = [(each - each.amin(-1, True)) / (each.amax(-1, True) - each.amin(-1, True) + SMALLEST)
              for each in (suited, stable)]  # fmt: skip
    return softmax_weights(ratio * scores[0] + (1 - ratio) * scores[1], temperature)


def leave_one_out(p: Tensor, weights: Tensor) -> Tensor:
    """``[..., v, K]``: for each view the mean of the other views' predictions ``p [..., v, K]`` under their weights
    ``[..., v]``; zero for a view without others."""
    others = weights[..., None, :] * (1 - torch.eye(p.shape[-2], dtype=p.dtype, device=p.device))
    return others / others.sum(-1, keepdim=True).clamp(min=SMALLEST) @ p


def sstpt_loss(logits: Tensor, weights: Tensor, consistency: float) -> Tensor:
    """``[...]`` mean entropy of the kept views' predictions plus ``consistency`` times their mean divergence from the
    :func:`leave_one_out` predictions, which are constant for the gradient.

    Args:
        logits: ``[..., v, K]``. weights: ``[..., v]``, which sum to 1.
    """
    p = logits.softmax(-1)
    reference = leave_one_out(p.detach(), weights.detach()).clamp(min=SMALLEST)
    divergence = (reference * (reference.log() - p.clamp(min=SMALLEST).log())).sum(-1).mean(-1)
    if logits.shape[-2] < 2:
        return mean_entropy(logits)
    return mean_entropy(logits) + consistency * divergence


@dataclass(frozen=True)
class SSTPTSettings(TuningSettings):
    """Settings of SS-TPT.

    Args:
        ratio: share of suitability in a view's score, in [0, 1]; the rest is stability.
        temperature: of the weights' softmax.
        consistency: weight of the loss's second term.
        divergence: of stability: ``usual``, or ``reversed`` as in the released code.
    """

    views: int = 16
    rho: float = 0.2
    ratio: float = 0.4
    temperature: float = 0.25
    consistency: float = 1.0
    divergence: str = "usual"


@TEST_TIME.add
class SSTPT(PromptTuning):
    """The entropy of the kept views and how they agree; the answer is over all views, weighted."""

    name: ClassVar[str] = "sstpt"
    summary: ClassVar[str] = "tunes the prompt on each image: views weighted by suitability and stability"
    profiles: ClassVar[Mapping[str, Any]] = {
        "sound": SSTPTSettings(),
        "released": SSTPTSettings(source="file", eight_bits="floor", divergence="reversed"),
    }
    fewest_kept: ClassVar[int] = 2
    settings: SSTPTSettings

    @classmethod
    def check(cls, settings: Any) -> None:
        super().check(settings)
        if not 0 <= settings.ratio <= 1:
            raise DefenseError(f"ratio is {settings.ratio}; expected a share from 0 to 1")
        if settings.temperature <= 0 or settings.consistency < 0:
            raise DefenseError(
                f"temperature is {settings.temperature} and consistency {settings.consistency}; expected a temperature "
                "above 0 and a weight of at least 0"
            )
        if settings.divergence not in DIVERGENCES:
            raise DefenseError(f"divergence is {settings.divergence!r}; expected {' or '.join(DIVERGENCES)}")

    def cost(self) -> Cost:
        cost = super().cost()
        return Cost(2 * cost.forward, 0, cost.text_forward, cost.text_backward)

    def look(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> ViewFeatures:
        files, parts = self.model.files, []
        images = max(1, views.AT_ONCE.get(pixels.device.type, 64) // self.settings.views)
        for i in range(0, len(pixels), images):
            some = Draws(draws.keys[i : i + images], draws.seed)
            own = views.view_pixels(pixels[i : i + images], some, self.settings, clean, files)
            parts.append(views.embed(encode, weak_augmentation(own, some.generators("weak"))))
        return ViewFeatures(super().look(encode, pixels, draws, clean).features, unit(torch.cat(parts)))

    def look_as_attacker(self, encode: Encode, pixels: Tensor, draws: Draws) -> ViewFeatures:
        """As the base class; weak augmentations serve the weights alone, which are constant for an attacker."""
        own = views.view_pixels(pixels, draws, self.attacked_views)
        with torch.no_grad():
            weak = views.embed(encode, weak_augmentation(own, draws.generators("weak")))
        return ViewFeatures(unit(views.embed(encode, own)), unit(weak))

    def qualities(self, inputs: ViewFeatures, untuned: Tensor) -> tuple[Tensor, Tensor]:
        """Suitability and stability ``[S, V]``, under the prompt at the start; constant for every gradient. Without
        weak augmentations every view is equally stable."""
        weak = untuned if inputs.weak is None else self.logits(inputs.weak, self.untuned.features)
        return suitability(inputs.features.detach()), stability(
            untuned.detach(), weak.detach(), self.settings.divergence
        )

    def objective(self, inputs: ViewFeatures, untuned: Tensor, kept: Tensor) -> Objective:
        settings = self.settings
        suited, stable = (each.gather(1, kept) for each in self.qualities(inputs, untuned))
        weights = view_weights(suited, stable, settings.ratio, settings.temperature)
        return lambda logits, text: sstpt_loss(logits, weights, settings.consistency)

    def answer(self, inputs: ViewFeatures, untuned: Tensor, tuned: Tensor) -> Tensor:
        qualities = self.qualities(inputs, untuned)
        return weighted_answer(tuned, view_weights(*qualities, self.settings.ratio, self.settings.temperature))

    def variants(self) -> tuple[Variant, ...]:
        n = self.attacked_views.views
        through = self.unrolled(f"{SMOOTH_STEP}, {CONSTANT}", n)
        return (*through, self.over_views("weighted untuned", 0, CONSTANT, n), self.mean_of_views())
