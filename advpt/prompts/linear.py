"""A linear head on embeddings, in the place of text features: the classifier of a linear probe."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from advpt.files import tensor_digest
from advpt.prompts.classifier import Classifier


@dataclass(frozen=True, eq=False)
class LinearClassifier(Classifier):
    """``features [K, L]`` are the weights of a linear layer with ``bias [K]``, on embeddings that are not normalised
    (Radford et al., ICML 2021; CoOp's ``lpclip``)."""

    computed: ClassVar[bool] = False
    bias: Tensor

    def logits(self, embeddings: Tensor) -> Tensor:
        """``[b, K]`` of embeddings ``[b, L]``."""
        return embeddings @ self.features.T + self.bias

    def probabilities(self, embeddings: Tensor, bias: float | None = None) -> Tensor:
        """``[b, K]``: of each class among the classes, whatever the ``bias`` of the model's own cosines."""
        return super().probabilities(embeddings)

    def moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        return dataclasses.replace(super().moved(move), bias=move(self.bias))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of weights and bias."""
        return tensor_digest({"weight": self.features, "bias": self.bias, "kind": torch.zeros(0)})
