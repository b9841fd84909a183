"""Context shifted by every image (CoCoOp; Zhou et al., CVPR 2022), and its classifier.

The context of an image with the feature ``f`` of unit length is ``ctx + meta_net(f)``, one shift for all its vectors.
So each image has text features of its own: its prompts are those of one sample for the text encoder, which computes
their shared prefix once per image.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advpt.backbones.card import Card
from advpt.backbones.text_encoder import PromptBatch, TextEncoder
from advpt.errors import PromptError
from advpt.files import tensor_digest
from advpt.prompts.classifier import Classifier
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings

REDUCTION = 16  # the width of an image feature over that of the meta net's hidden layer
TEXTS_AT_ONCE = 1024  # prompts per pass through the text tower; at least all classes of one image


class ConditionalLearner(PromptLearner):
    """Shared context ``ctx [M, d]`` at position ``end``, and ``meta_net``: Linear(L, L / 16), ReLU, Linear(L / 16, d).

    The names of the parameters are CoCoOp's. :meth:`forward` gives the prompts without an image's shift.

    Args:
        card: of the whole CLIP, whose image features the meta net reads.
        encoder, classnames, settings, generator: as of :class:`~advpt.prompts.learner.PromptLearner`; linear layers
            start as ``torch.nn.Linear``.

    Raises:
        PromptError: settings that CoCoOp does not have, or no card; else as the base class.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        classnames: Sequence[str],
        settings: ContextSettings,
        generator: torch.Generator | None = None,
        card: Card | None = None,
    ) -> None:
        if card is None:
            raise PromptError("a meta net reads image features: it needs to know their width (the CLIP's card)")
        if settings.csc or settings.position != "end" or settings.layout != "text":
            raise PromptError(
                f"a context that images move is shared by all classes and stands before their names; found CSC "
                f"{settings.csc}, CLASS_TOKEN_POSITION {settings.position}, LAYOUT {settings.layout}; expected False, "
                "end, text"
            )
        super().__init__(encoder, classnames, settings, generator)
        inside = card.embed_dim
        hidden = max(1, inside // REDUCTION)
        layers: OrderedDict[str, nn.Module] = OrderedDict(linear1=_linear(inside, hidden, generator), relu=nn.ReLU())
        layers["linear2"] = _linear(hidden, encoder.width, generator)
        self.meta_net = nn.Sequential(layers).to(encoder.device)

    def of_images(self, features: Tensor, values: Mapping[str, Tensor] | None = None) -> PromptBatch:
        """The prompts of S images, as those of S samples; differentiable in both arguments.

        Args:
            features: ``[S, L]`` float32 image features of unit length.
            values: tensors in the place of the parameters, by name.
        """
        at = dict(self.named_parameters()) if values is None else values
        hidden = F.linear(features, at["meta_net.linear1.weight"], at["meta_net.linear1.bias"]).relu()
        shift = F.linear(hidden, at["meta_net.linear2.weight"], at["meta_net.linear2.bias"])
        return self.prompts_of(at["ctx"] + shift.unsqueeze(-2), None)

    def classifier(self, encoder: TextEncoder, scale: float, fixed: Tensor) -> ConditionalClassifier:
        unmoved = super().classifier(encoder, scale, fixed)
        values = {name: value.detach().clone() for name, value in self.named_parameters()}
        return ConditionalClassifier(unmoved.features, scale, encoder, self, values)


def _linear(inside: int, outside: int, generator: torch.Generator | None) -> nn.Linear:
    """A layer initialised like ``torch.nn.Linear``, uniform within 1 / sqrt(inside), from ``generator`` alone."""
    layer = nn.utils.skip_init(nn.Linear, inside, outside)
    for part in (layer.weight, layer.bias):
        nn.init.uniform_(part, -(inside**-0.5), inside**-0.5, generator=generator)
    return layer


def logits_of_images(embeddings: Tensor, text: Tensor, scale: float) -> Tensor:
    """``[b, K]`` logits: scale x cosine of each image with text features of its own.

    Args:
        embeddings: ``[b, L]``. text: ``[b, K, L]``. Neither needs unit length. scale: the logit scale.
    """
    return scale * (F.normalize(text, dim=-1) @ F.normalize(embeddings, dim=-1).unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True, eq=False)
class ConditionalClassifier(Classifier):
    """Classifies an embedding by prompts that it shifts; differentiable in the embedding, meta net included.

    Args:
        features: text features of the prompts without an image's shift.
        values: the parameters of ``learner``, detached; its current ones are not used.
    """

    encoder: TextEncoder
    learner: ConditionalLearner
    values: Mapping[str, Tensor]

    def logits(self, embeddings: Tensor) -> Tensor:
        """``[b, K]`` of embeddings ``[b, L]``. A chunk of images at a time goes through the text tower; where
        gradients are needed, a chunk is computed again in the backward pass, so that one is in memory at a time."""
        parts = embeddings.split(max(1, TEXTS_AT_ONCE // len(self.features)))
        if not len(embeddings):
            return embeddings.new_zeros(0, len(self.features))
        if len(parts) > 1 and torch.is_grad_enabled() and embeddings.requires_grad:
            again = functools.partial(checkpoint, self._logits, use_reentrant=False, preserve_rng_state=False)
            return torch.cat([again(part) for part in parts])
        return torch.cat([self._logits(part) for part in parts])

    def _logits(self, embeddings: Tensor) -> Tensor:
        prompts = self.learner.of_images(F.normalize(embeddings, dim=-1), self.values)
        return logits_of_images(embeddings, self.encoder(prompts), self.scale)

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        """As of :class:`Classifier`; the modules ``encoder`` and ``learner`` are moved by who owns them."""
        values = {name: move(value) for name, value in self.values.items()}
        return dataclasses.replace(super().moved(move), values=values)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything that the logits depend on: context and meta net, the rest of the prompts, scale, and
        the features of the prompts without an image's shift, which stand for the text tower."""
        parts = {f"value {name}": value for name, value in self.values.items()}
        parts |= {f"prompt {name}": value for name, value in self.learner.named_buffers()}
        parts["prompt eos"] = self.learner.eos
        scale = torch.tensor(self.scale, dtype=torch.float64)
        return tensor_digest(parts | {"features": self.features, "scale": scale})
