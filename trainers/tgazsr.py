"""TGA-ZSR (Yu et al., NeurIPS 2024): cross-entropy of attacked images, while the map of where a class is in an image
stays near the frozen tower's map of the clean image. With ``NEGATED`` it is Comp-TGA (arXiv 2603.18598).

The map is of patch tokens and the text of the true class (:func:`advpt.losses.attention_map`), from the forward pass
that the logits come from. The profiles differ in the map alone: ``sound`` is the cosine of each token and the text,
scaled to [0, 1] before it is enlarged; ``paper`` scales it behind; ``released`` normalises each channel over tokens.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt import losses
from advpt.backbones.backbone import require_class_token
from advpt.backbones.load import find_card
from advpt.errors import ConfigError
from advpt.prompts.classifier import from_templates
from advpt.settings import FROM_0, Range, register, setting
from trainers.finetune import EncoderSettings, EncoderTrainer


@dataclass(frozen=True)
class Profile:
    """How a map is made; the defaults are ``sound``."""

    axis: str = "channels"
    resize_first: bool = False


PROFILES = {"sound": Profile(), "paper": Profile(resize_first=True), "released": Profile(axis="tokens")}


@register("TRAINER.TGAZSR")
class TGAZSRSettings(EncoderSettings):
    """``SIZE`` 0 is the model's, "" leaves a value to the profile."""

    attack: str = "pgd2-ce@1/a1"
    warmup_steps: int = 1000
    alpha: float = setting(0.08, "weight of the distance of maps of attacked images", allowed=FROM_0)
    beta: float = setting(0.05, "weight of the distance of maps of clean images", allowed=FROM_0)
    profile: str = setting("sound", "how maps are made: sound, or as the paper or its code have them",
                           allowed=tuple(PROFILES))  # fmt: skip
    axis: str = setting("", "what tokens are of unit length over; empty: the profile's", allowed=("", *losses.AXES))
    distance: str = setting("l2", "distance of maps; l2 grows with SIZE, the others do not", allowed=losses.DISTANCES)
    size: int = setting(0, "side of the maps in pixels; 0: of the model's images", allowed=Range(0, whole=True))
    negated: str = setting("", "prompt with {} of what the map of a class is to leave out (Comp-TGA); empty: none")

    def check(self) -> None:
        if self.negated and "{}" not in self.negated:
            raise ConfigError(
                f"{self.node}.NEGATED is {self.negated!r}, which has no {{}} where the class name goes; expected text "
                "like 'This is not a photo of a {}', or nothing"
            )


@TRAINER_REGISTRY.register()
class TGAZSR(EncoderTrainer):
    settings, compares = TGAZSRSettings, True
    options: TGAZSRSettings
    negated: Tensor | None  # [K, L] text features of what the maps are to leave out

    def check_cfg(self, cfg: Any) -> None:
        super().check_cfg(cfg)
        name = cfg.MODEL.BACKBONE.NAME
        if card := find_card(name, cfg.MODEL.ACTIVATION):
            require_class_token(name, card.image)

    def build_model(self) -> None:
        super().build_model()
        require_class_token(self.backbone.name, self.backbone.card.image)
        self.negated = None
        if template := self.options.negated:
            made = from_templates(self.encoder, self.classnames, (template,), self.zero_shot.scale)
            self.negated = made.features

    def maps(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """``[b, H W]`` where the class of each image is, of the outputs ``[b, 1 + P, L]`` of its tokens."""
        options, card = self.options, self.backbone.card.image
        profile = PROFILES[options.profile]
        attention = functools.partial(
            losses.attention_map,
            tokens,
            size=(options.size, options.size) if options.size else card.size,
            grid=card.grid,
            axis=options.axis or profile.axis,
            resize_first=profile.resize_first,
        )
        maps = attention(self.zero_shot.features[labels])
        return maps if self.negated is None else losses.complement(maps, attention(self.negated[labels]))

    def loss(self, pixels: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        options = self.options
        if options.alpha == options.beta == 0:
            return super().loss(pixels, attacked, labels)  # to the last bit TeCoA's
        with torch.no_grad():
            reference = self.maps(self.reference.tokens(pixels), labels)
        tokens, clean = self.image_encoder.tokens(attacked), self.image_encoder.tokens(pixels)
        return losses.tga(
            self.zero_shot.logits(tokens[:, 0]),
            labels,
            self.maps(tokens, labels),
            self.maps(clean, labels),
            reference,
            alpha=options.alpha,
            beta=options.beta,
            distance=options.distance,
        )[0]
