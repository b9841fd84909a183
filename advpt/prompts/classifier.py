"""The classifier of an embedding: one text feature per class and the logit scale."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.mixture import Visual, visual_tensors
from advpt.backbones.text_encoder import TextEncoder
from advpt.errors import PromptError
from advpt.files import tensor_digest


@dataclass(frozen=True, eq=False)
class Classifier:
    """Classifies embeddings by their cosine with text features.

    Args:
        features: ``[K, L]`` float32 of unit length, detached.
        scale: the logit scale (100 for OpenAI's CLIP).
        visual: prompts ``[J, n, D_v]`` (or what makes them) that the image encoder needs for this classifier, or None.
    """

    computed: ClassVar[bool] = True  # features come out of a text tower, with other last digits on other processors
    features: Tensor
    scale: float
    visual: Visual | None = field(default=None, kw_only=True)

    def logits(self, embeddings: Tensor) -> Tensor:
        """``[b, K]`` logits: scale x cosine of embeddings ``[b, L]`` (normalised here) and text features."""
        return self.scale * F.normalize(embeddings, dim=-1) @ self.features.T

    def probabilities(self, embeddings: Tensor, bias: float | None = None) -> Tensor:
        """``[b, K]``: of each class among the classes; with a ``bias`` (SigLIP's, which no class has alone, so that
        :meth:`logits` leave it out) of each class by itself."""
        logits = self.logits(embeddings)
        return logits.softmax(-1) if bias is None else (logits + bias).sigmoid()

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """The same on another device: every tensor through ``move``, as :class:`torch.nn.Module` moves its own."""
        visual = self.visual
        if visual is not None:
            visual = move(visual) if isinstance(visual, Tensor) else visual.each(move)
        return dataclasses.replace(self, features=move(self.features), visual=visual)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of features, scale and visual prompts: an attack through this prompt depends on exactly these."""
        parts = {"features": self.features, "scale": torch.tensor(self.scale, dtype=torch.float64)}
        return tensor_digest(parts | (visual_tensors(self.visual) if self.visual is not None else {}))


def from_templates(
    encoder: TextEncoder, classnames: Sequence[str], templates: Sequence[str], scale: float
) -> Classifier:
    """The classifier of hand-written prompts. Several templates are an ensemble: the mean of normalised features,
    normalised.

    Raises:
        PromptError: a template without ``{}``, or a prompt that is too long.
    """
    if not templates:
        raise PromptError("no template given; expected text like 'a photo of a {}.'")
    names = [name.replace("_", " ") for name in classnames]
    total = torch.zeros(())
    with torch.no_grad():
        for template in templates:
            if "{}" not in template:
                raise PromptError(f"the template {template!r} has no {{}} where the class name goes")
            features = encoder.encode_texts([template.replace("{}", name) for name in names])
            total = total + F.normalize(features, dim=-1)
        return Classifier(F.normalize(total, dim=-1), scale)
