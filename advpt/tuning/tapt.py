"""TAPT as a defense at test time like the others. It needs a run's prompts and statistics, so that its trainer makes it
and no text does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.prompts.adamw import SMOOTH_STEP
from advpt.prompts.classifier import Classifier
from advpt.test_time.base import Cost, DefendedModel, Draws, TestTimeDefense, Variant
from advpt.tuning.test_time import Tuner, TuningConfig


class TAPT(TestTimeDefense):
    """Tunes prompts of text and image on each image. Its image encoder takes prompts of each image's own, so that it
    classifies with the tuner's and not with the one that a call brings.

    Args:
        tuner: what it does.
    """

    name: ClassVar[str] = "tapt"
    summary: ClassVar[str] = "tunes prompts of text and image on each image: entropy and token statistics of views"
    profiles: ClassVar[Mapping[str, Any]] = {"sound": TuningConfig()}
    uses_gradients: ClassVar[bool] = True
    tunes_text: ClassVar[bool] = True
    settings: TuningConfig

    def __init__(self, tuner: Tuner) -> None:
        learner, state, text = tuner.model.learner, *tuner.at_start
        classifier = Classifier(text, tuner.model.scale, visual=state.visual)
        model = DefendedModel(classifier, tuner.model.text, learner.classnames, None, learner, tuner.files)
        super().__init__(model, tuner.config, tuner.config.seed)
        self.tuner = tuner

    @property
    def draws_noise(self) -> bool:
        return self.settings.views > 1 and self.settings.steps > 0

    @property
    def by_image(self) -> bool:
        return self.tuner.by_image

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        return self.tuner(pixels, draws.keys, clean)

    def variants(self) -> tuple[Variant, ...]:
        """``unrolled`` through views and steps, every image from the start; ``plain``, the prompts at the start."""

        def unrolled(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
            return self.tuner.unrolled(pixels, draws.keys, draws.seed)

        def plain(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
            return self.tuner.attackable(self.tuner.untouched(len(pixels)), pixels)

        about, cost, draws = self.tuner.parameters(), self.cost(), self.draws_noise
        start = "of the prompts at the start"
        through = Cost(cost.forward, 2 * cost.backward + 1, cost.text_forward, 2 * cost.text_backward)
        return (
            Variant("unrolled", unrolled, about | {"variant": "unrolled"}, SMOOTH_STEP, through, True, draws=draws),
            Variant("plain", plain, about | {"variant": "plain"}, start, Cost(1, 1), draws=False, undefended=True),
        )

    def cost(self) -> Cost:
        config = self.settings
        if not config.steps:
            return Cost()
        tuned = config.steps * config.kept
        text = config.steps if self.tuner.at_start[0].text is not None else 0
        return Cost(config.views + tuned + 1, tuned, text + 1 if text else 0, text)

    def parameters(self) -> dict[str, Any]:
        return self.tuner.parameters()
