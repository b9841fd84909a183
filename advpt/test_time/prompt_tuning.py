"""Prompt tuning at test time: TPT (Shu et al., NeurIPS 2022), C-TPT (Yoon et al., ICLR 2024), and the tuner that R-TPT
and SS-TPT share with them.

For every image: views of it, of which the least uncertain ones are kept; a step of AdamW from the same start makes a
loss of their predictions smaller; the tuned prompt classifies. Image features do not depend on the text, so that they
are computed once and without a graph; only the text has one, for a few images at once.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advpt import losses
from advpt.backbones.text_encoder import PromptBatch
from advpt.bank.defended_input import Encode
from advpt.errors import DefenseError
from advpt.files import tensor_digest
from advpt.prompts.adamw import BETAS, DECAY, EPS, SMOOTH_STEP, Values, descend, unroll, warn_not_finite
from advpt.prompts.classifier import Classifier
from advpt.prompts.conditional import ConditionalLearner
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings
from advpt.test_time import views
from advpt.test_time.base import OWN, TEST_TIME, Cost, DefendedModel, Draws, Variant
from advpt.test_time.counter import plain
from advpt.test_time.multi_view import MultiView
from advpt.test_time.selection import choose, kept_count, pick, unit
from advpt.test_time.views import ViewSettings

WORDS = ContextSettings(n_ctx=4, csc=False, ctx_init="a photo of a", position="end", precision="fp32")
PROMPTS_AT_ONCE = {"cpu": 256, "cuda": 4096}  # images x classes in a pass through the text tower with a graph
STARTS = ("hand", "learned")
Objective = Callable[[Tensor, Tensor], Tensor]  # logits [S, v, K] of the kept views, text [S, K, L], to losses [S]


@dataclass(frozen=True)
class TuningSettings(ViewSettings):
    """Settings of every method that tunes a prompt.

    Args:
        rho: share of the views that is kept, in (0, 1].
        start: the prompt that every image starts from: ``hand`` four vectors "a photo of a", ``learned`` the run's own.
        steps, lr: of AdamW.
    """

    rho: float = 0.1
    start: str = "hand"
    steps: int = 1
    lr: float = 5e-3


@dataclass(frozen=True, eq=False)
class ViewFeatures:
    """What a method knows of S images: unit features ``[S, V, L]`` of their views, themselves first, and of one weak
    augmentation of each view, where it uses any."""

    features: Tensor
    weak: Tensor | None = None

    def split(self, images: int) -> list[ViewFeatures]:
        """Parts of at most ``images`` images."""
        weak = self.weak.split(images) if self.weak is not None else [None] * len(self.features)
        return [ViewFeatures(*part) for part in zip(self.features.split(images), weak)]


class PromptTuning(MultiView):
    """Tunes a prompt on each image. Subclasses write a loss and an answer rule.

    Raises:
        DefenseError: the start is the learned prompt, and the run has none that can be tuned.
    """

    tunes_text: ClassVar[bool] = True
    fewest_kept: ClassVar[int] = 1
    settings: TuningSettings

    def __init__(self, model: DefendedModel, settings: TuningSettings, seed: int = 0) -> None:
        super().__init__(model, settings, seed)
        self.learner = start_of(model, settings.start)
        with torch.no_grad():
            self.context = self.learner.ctx.detach().to(model.text.table, copy=True)
            prompts = self.learner().text
            self._deep = prompts.deep.detach().clone() if prompts is not None and prompts.deep is not None else None
            text = self.text_features(self.context[None])[0]
        given = model.classifier
        same = text.shape == given.features.shape and torch.allclose(text.to(given.features), given.features, atol=1e-5)
        self.untuned = given if same else Classifier(text.to(given.features), given.scale, visual=given.visual)

    @classmethod
    def check(cls, settings: Any) -> None:
        super().check(settings)
        if not 0 < settings.rho <= 1:
            raise DefenseError(f"rho is {settings.rho}; expected a share of the views above 0 and at most 1")
        if settings.start not in STARTS:
            raise DefenseError(f"start is {settings.start!r}; expected {' or '.join(STARTS)}")
        if settings.steps < 0 or settings.lr < 0:
            raise DefenseError(f"steps is {settings.steps} and lr {settings.lr}; expected 0 or more of both")

    def cost(self) -> Cost:
        steps = self.settings.steps
        return Cost(self.settings.views, 0, steps + 1 if steps else 0, steps)

    def parameters(self) -> dict[str, Any]:
        start = tensor_digest({"context": self.context, "text": self.untuned.features})
        return super().parameters() | {"start": start, "betas": list(BETAS), "eps": EPS, "decay": DECAY}

    # --- what a method decides -------------------------------------------------------------------------------------

    @abstractmethod
    def objective(self, inputs: ViewFeatures, untuned: Tensor, kept: Tensor) -> Objective:
        """The loss of the kept views, in which nothing but its arguments has a gradient to the prompt.

        Args:
            untuned: logits ``[S, V, K]`` under the start. kept: ``[S, v]`` int64, numbers of the kept views.
        """

    @abstractmethod
    def answer(self, inputs: ViewFeatures, untuned: Tensor, tuned: Tensor) -> Tensor:
        """Logits ``[S, K]`` from those of all views ``[S, V, K]``, under the start and under the tuned prompt."""

    # --- the tuner --------------------------------------------------------------------------------------------------

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        return self.tune_and_answer(self.look(encode, pixels, draws, clean), draws.keys)

    def combine(self, embeddings: Tensor) -> Tensor:
        return self.tune_and_answer(ViewFeatures(unit(embeddings)))

    def look(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> ViewFeatures:
        """The views of ``pixels [b, 3, h, w]``, without a graph."""
        return ViewFeatures(unit(views.view_features(encode, pixels, draws, self.settings, clean, self.model.files)))

    def look_as_attacker(self, encode: Encode, pixels: Tensor, draws: Draws) -> ViewFeatures:
        """The image and a few fresh views of it, differentiable in the pixels."""
        return ViewFeatures(unit(views.embed(encode, views.view_pixels(pixels, draws, self.attacked_views))))

    def tune_and_answer(self, inputs: ViewFeatures, ids: Sequence[str] = (), steps: int | None = None) -> Tensor:
        """Logits ``[b, K]``. With enabled gradients they are differentiable in the features, through the steps too.

        Args:
            ids: of the images, for a warning. steps: in the place of the setting's.
        """
        steps = self.settings.steps if steps is None else steps
        images = max(1, PROMPTS_AT_ONCE.get(inputs.features.device.type, 256) // len(self.untuned.features))
        parts = inputs.split(images)
        return torch.cat([self._answer(part, ids[i * images :], steps) for i, part in enumerate(parts)])

    def _answer(self, inputs: ViewFeatures, ids: Sequence[str], steps: int) -> Tensor:
        untuned = self.logits(inputs.features, self.untuned.features)
        if not steps:
            return self.answer(inputs, untuned, untuned)
        n = inputs.features.shape[1]
        rows = choose(untuned.detach(), min(n, max(self.fewest_kept, kept_count(self.settings.rho, n))))
        kept, objective = pick(inputs.features, rows), self.objective(inputs, untuned, rows)

        def loss(values: Values) -> Tensor:
            text = self.text_features(values["context"])
            return objective(self.logits(kept, text), text)

        start = {"context": self.context.expand(len(kept), *self.context.shape)}
        if torch.is_grad_enabled():
            values = unroll(start, loss, steps, self.settings.lr)
        else:
            values, broken = descend(start, loss, steps, self.settings.lr)
            warn_not_finite(broken, ids)
        return self.answer(inputs, untuned, self.logits(inputs.features, self.text_features(values["context"])))

    def logits(self, features: Tensor, text: Tensor) -> Tensor:
        """``[S, v, K]`` of unit features ``[S, v, L]`` and text ``[K, L]`` or ``[S, K, L]``."""
        return self.model.classifier.scale * features @ text.to(features.dtype).transpose(-1, -2)

    def text_features(self, context: Tensor) -> Tensor:
        """``[S, K, L]`` of unit length, for contexts ``[S, ...]``."""
        features = self.model.text(self._prompts(context))
        return unit(features.to(torch.promote_types(features.dtype, torch.float32)))

    def _prompts(self, context: Tensor) -> PromptBatch:
        if self.learner.position == "end":
            return self.learner.prompts_of(context, self._deep)
        each = [self.learner.prompts_of(one, self._deep) for one in context]
        prefix, suffix = (torch.stack([getattr(one, part) for one in each]) for part in ("prefix", "suffix"))
        return PromptBatch(prefix, suffix, each[0].eos)

    # --- for attackers ----------------------------------------------------------------------------------------------

    def mean_of_views(self) -> Variant:
        """The variant that all methods over views share, with the prompt that this one starts from."""
        model = dataclasses.replace(self.model, classifier=self.untuned)
        inputs = self.attacked_views
        return views.mean_of_views(model, inputs.views - 1, inputs.augmix, inputs.eight_bits)

    def untuned_image(self) -> Variant:
        """The image itself, under the prompt at the start: the attack that all defenses share, where that prompt is
        the model's own."""
        classifier = self.untuned
        if classifier is self.model.classifier:
            return plain(self.model)

        def logits(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
            return classifier.logits(encode(pixels))

        parameters = {"name": "plain", "version": 1, "text": classifier.digest}
        gradient = "of the untuned prompt"
        return Variant("plain", logits, parameters, gradient, Cost(1, 1), draws=False, undefended=True)

    def over_views(self, name: str, steps: int, gradient: str = OWN, weak: int = 0) -> Variant:
        """The method itself on an attacker's views, with so many steps. ``weak``: further passes without a graph."""

        def logits(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
            return self.tune_and_answer(self.look_as_attacker(encode, pixels, draws), draws.keys, steps)

        n, settings = self.attacked_views.views, dataclasses.asdict(self.settings)
        del settings["source"]
        about = {key: value for key, value in self.parameters().items() if key not in ("seed", "gives", "settings")}
        parameters = about | {"settings": settings | {"views": n, "steps": steps}, "variant": name}
        cost = Cost(n + weak, n, steps + 1 if steps else 0, 2 * steps + 1 if steps else 0)
        if not self.attacked_views.augmix == self.attacked_views.eight_bits == "off":
            gradient = f"{gradient}; {views.STRAIGHT}"
        return Variant(name, logits, parameters, gradient, cost, steps > 0, mean_over=max(1, n - 1), draws=n > 1)

    def unrolled(self, gradient: str = SMOOTH_STEP, weak: int = 0) -> tuple[Variant, ...]:
        """The method itself through its steps; nothing where it has none. See :meth:`over_views`."""
        steps = self.settings.steps
        return (self.over_views("unrolled", steps, gradient, weak),) if steps else ()


def start_of(model: DefendedModel, start: str) -> PromptLearner:
    """The prompt that tuning starts from. Raises DefenseError where the run has no learned one that can be tuned."""
    if start == "hand":
        return PromptLearner(model.text, model.classnames, WORDS)
    learner = model.learner
    if learner is None:
        raise DefenseError("start=learned asks for the run's own prompt, and this run has none; use start=hand")
    if isinstance(learner, ConditionalLearner):
        raise DefenseError("start=learned: this run's prompt differs from image to image (CoCoOp); use start=hand")
    if learner.layout == "visual":
        raise DefenseError("start=learned: this run's prompts have no text context (LAYOUT visual); use start=hand")
    return learner


# --- losses ---------------------------------------------------------------------------------------------------------


def dispersion(text: Tensor) -> Tensor:
    """``[...]`` mean distance of text features ``[..., K, L]`` of unit length from their mean, which is not normalised
    (C-TPT)."""
    return (text - text.mean(-2, keepdim=True)).norm(dim=-1).mean(-1)


def ctpt_loss(logits: Tensor, text: Tensor, weight: float) -> Tensor:
    """``[...]`` entropy of the mean prediction over views, of logits ``[..., v, K]``, minus ``weight`` times the
    dispersion of the text features ``[..., K, L]`` (C-TPT)."""
    return losses.averaged_entropy(logits) - weight * dispersion(text)


# --- methods --------------------------------------------------------------------------------------------------------


@TEST_TIME.add
class TPT(PromptTuning):
    """The entropy of the mean prediction over the kept views; the image itself is classified."""

    name: ClassVar[str] = "tpt"
    summary: ClassVar[str] = "tunes the prompt on each image: entropy of the mean prediction over views"
    profiles: ClassVar[Mapping[str, Any]] = {"sound": TuningSettings()}

    def objective(self, inputs: ViewFeatures, untuned: Tensor, kept: Tensor) -> Objective:
        return lambda logits, text: losses.averaged_entropy(logits)

    def answer(self, inputs: ViewFeatures, untuned: Tensor, tuned: Tensor) -> Tensor:
        return tuned[:, 0]

    def variants(self) -> tuple[Variant, ...]:
        return (*self.unrolled(), self.mean_of_views(), self.untuned_image())


@dataclass(frozen=True)
class CTPTSettings(TuningSettings):
    """Settings of C-TPT.

    Args:
        dispersion: weight of the text features' dispersion (lambda): 50, and 20 for ImageNet and its variants.
    """

    dispersion: float = 50.0


@TEST_TIME.add
class CTPT(TPT):
    """TPT with a reward for text features that lie far from their mean, which calibrates."""

    name: ClassVar[str] = "ctpt"
    summary: ClassVar[str] = "TPT that also spreads the text features, for calibration"
    profiles: ClassVar[Mapping[str, Any]] = {"sound": CTPTSettings()}
    settings: CTPTSettings

    def objective(self, inputs: ViewFeatures, untuned: Tensor, kept: Tensor) -> Objective:
        return lambda logits, text: ctpt_loss(logits, text, self.settings.dispersion)
