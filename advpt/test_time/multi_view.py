"""What all classifiers over several views of an image have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from advpt.bank.defended_input import Encode
from advpt.test_time import selection
from advpt.test_time.base import Cost, Draws, TestTimeDefense, Variant
from advpt.test_time.views import (
    ATTACKED_VIEWS,
    VERSION,
    ViewSettings,
    check,
    logits_of_views,
    mean_of_views,
    through_views,
    view_features,
)


class MultiView(TestTimeDefense):
    """A classifier over an image and crops of it. Subclasses write :meth:`combine`, a rule for embeddings of views, and
    may write :meth:`own_variants`."""

    settings: ViewSettings

    @classmethod
    def check(cls, settings: ViewSettings) -> None:
        check(settings)

    @property
    def draws_noise(self) -> bool:
        return self.settings.views > 1

    @abstractmethod
    def combine(self, embeddings: Tensor) -> Tensor:
        """Logits ``[b, K]`` of the embeddings ``[b, V, L]`` of views, not normalised; the image's own come first."""

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        return self.combine(view_features(encode, pixels, draws, self.settings, clean, self.model.files))

    def logits_of_views(self, embeddings: Tensor) -> Tensor:
        """Logits ``[b, V, K]`` of embeddings ``[b, V, L]``."""
        return logits_of_views(self.model, embeddings)

    @property
    def attacked_views(self) -> ViewSettings:
        """How an attacker makes views in each of its passes: as the method does, but fewer."""
        n = min(ATTACKED_VIEWS, self.settings.views - 1)
        return ViewSettings(n + 1, self.settings.augmix, eight_bits=self.settings.eight_bits)

    def own_variants(self) -> tuple[Variant, ...]:
        """What an attacker of this method differentiates besides the mean prediction over views."""
        return ()

    def variants(self) -> tuple[Variant, ...]:
        views = self.attacked_views
        return (*self.own_variants(), mean_of_views(self.model, views.views - 1, views.augmix, views.eight_bits))

    def through_views(self, name: str, rule: Callable[[Tensor], Tensor], **values: Any) -> Variant:
        """The variant that differentiates a rule over the image and fresh views of it.

        Args:
            rule: embeddings ``[b, n, L]`` to logits ``[b, K]``, differentiable.
            values: the numbers that the rule depends on, besides the text.
        """
        return through_views(self.model, name, rule, self.attacked_views, **values)

    def mean_of_kept_views(self, rho: float) -> Variant:
        """The mean prediction over the views of lowest entropy, which are chosen anew in every pass."""

        def rule(embeddings: Tensor) -> Tensor:
            logits = self.logits_of_views(embeddings)
            kept = selection.kept_count(rho, logits.shape[1])
            return selection.log_mean_probability(selection.pick(logits, selection.choose(logits.detach(), kept)))

        kept = selection.kept_count(rho, self.attacked_views.views)
        return self.through_views("mean of kept views", rule, kept=kept)

    def cost(self) -> Cost:
        return Cost(self.settings.views)

    def parameters(self) -> dict[str, Any]:
        return super().parameters() | {"views": VERSION}
