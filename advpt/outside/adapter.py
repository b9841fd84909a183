"""An outside model in the places of ours: its logits as embeddings, a classifier that changes nothing, and its defense
as one at test time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone, ImageEncoder
from advpt.backbones.card import JSON, Card, ImageCard, TextCard
from advpt.backbones.text_encoder import TextEncoder
from advpt.bank.defended_input import Encode
from advpt.files import digest
from advpt.outside.model import ITSELF, Logits, OutsideModel
from advpt.outside.rules import Checked
from advpt.prompts.classifier import Classifier
from advpt.test_time.base import Cost, DefendedModel, Draws, TestTimeDefense, Variant
from advpt.test_time.counter import plain

OWN = "its own"  # name of the model's defense in records and tables
KIND = "outside"


@dataclass(frozen=True, eq=False)
class Identity(Classifier):
    """A classifier of logits, which gives them back as they are. ``features [K, 0]`` say how many there are."""

    computed: ClassVar[bool] = False

    @classmethod
    def of(cls, classes: int, device: torch.device) -> Self:
        """Of so many classes."""
        return cls(torch.zeros(classes, 0, device=device), 1.0)

    def logits(self, embeddings: Tensor) -> Tensor:
        return embeddings

    @functools.cached_property
    def digest(self) -> str:
        return digest({"identity": len(self.features)})


class OutsideBackbone(Backbone):
    """An outside model without its defense: its image encoder gives logits, and there are no texts."""

    concurrent = False

    def __init__(self, model: OutsideModel, classes: int) -> None:
        pixels = model.preprocessing
        image = ImageCard(
            pixels.size,
            activation="",
            kind=KIND,
            family=KIND,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            interpolation=pixels.interpolation,
            resize=pixels.resize,
        )
        self.card, self.name, self.device = Card(model.name, classes, image, TextCard()), model.name, model.device
        self.source: Mapping[str, JSON] | None = {"kind": KIND, "model": model.source or model.name, **model.facts}
        self.image = cast(ImageEncoder, model.embed)
        self.image_file = self.logit_bias = None
        self.outside = model

    @functools.cached_property
    def image_digest(self) -> str:
        return self.outside.digest

    @functools.cached_property
    def text_digest(self) -> str | None:  # type: ignore[override]
        return None

    @property
    def reads(self) -> dict[str, JSON] | None:
        return None

    @property
    def packages(self) -> tuple[str, ...]:
        return ()


def defended_model(classifier: Classifier, classnames: tuple[str, ...]) -> DefendedModel:
    """What attackers of an outside model know besides it: no text and no card."""
    return DefendedModel(classifier, cast(TextEncoder, None), classnames, None)


class OwnDefense(TestTimeDefense):
    """The whole of an outside model, with its defense if it has one.

    Args:
        model: what it is called for. outside, checked: the model, and which of its functions have a gradient.
    """

    name: ClassVar[str] = OWN

    def __init__(self, model: DefendedModel, outside: OutsideModel, checked: Checked) -> None:
        super().__init__(model, None)
        self.outside, self.checked = outside, checked

    def classify(self, encode: Encode, pixels: Tensor, draws: Draws, clean: bool) -> Tensor:
        return encode(pixels) if self.outside.undefended is None else self.outside(pixels)

    def variants(self) -> tuple[Variant, ...]:
        """Those that the model names, the model itself if it has a gradient, and the model without its defense; none
        where nothing has one."""
        made = [self._variant(name, self.outside.through(name)) for name in self.outside.variants]
        if "" in self.checked.gradients and ITSELF not in self.outside.variants:
            made.append(self._variant(ITSELF, self.outside if self.outside.undefended is not None else None))
        if self.outside.undefended is not None:
            made.append(plain(self.model))
        return tuple(made)

    def cost(self) -> Cost:
        return Cost(self.outside.passes)

    def parameters(self) -> dict[str, Any]:
        return {"name": KIND, "model": self.outside.digest, "text": self.model.classifier.digest, "gives": "logits"}

    def _variant(self, name: str, function: Logits | None) -> Variant:
        """``function`` None: the encoder, whose passes are kept."""

        def logits(encode: Encode, pixels: Tensor, draws: Draws) -> Tensor:
            return (function or encode)(pixels)

        about = {**self.parameters(), "variant": name}
        return Variant(name, logits, about, cost=Cost(self.outside.passes, self.outside.passes), draws=False)
