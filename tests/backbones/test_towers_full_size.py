"""Models of their full size with random weights, against open_clip's own code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from advpt.backbones import extras
from advpt.backbones.backbone import Backbone
from advpt.backbones.card import Card
from advpt.backbones.configs import card_of, read_open_clip
from tests.helpers.towers import (
    SPECIALS,
    apart,
    compare,
    compare_images,
    learner,
    of_card,
    own_image,
    own_text,
    pixels,
)

pytest.importorskip("open_clip")
pytestmark = pytest.mark.slow


def full(name: str) -> Card:
    card = card_of(name, read_open_clip(extras.architecture(name), name))
    if "SigLIP" in name:
        return dataclasses.replace(card, text=dataclasses.replace(card.text, tokenizer="0" * 64, **SPECIALS["SigLIP"]))
    return card


def assert_texts_are_read_alike(backbone: Backbone, texts: Sequence[str]) -> None:
    with torch.no_grad():
        theirs = own_text(backbone, backbone.tokenizer.batch(texts))
        assert apart(backbone.text.encode_texts(texts), theirs) <= 1e-5


def from_theirs(backbone: Backbone, images: int) -> float:
    x = pixels(backbone, images)
    return apart(backbone.require_image()(x), own_image(backbone, x))


def test_a_vit_b_32() -> None:
    """To the last bit as open_clip makes it, where the biases of attention are 0."""
    card = full("ViT-B-32")
    assert from_theirs(of_card(card, change=lambda model: model), 8) == 0
    backbone = of_card(card)
    assert from_theirs(backbone, 3) <= 1e-6
    assert_texts_are_read_alike(backbone, [f"a photo of a {'very ' * (i % 5)}small pet {i}." for i in range(37)])
    compare(backbone, learner(backbone, n_ctx=16))
    compare(backbone, learner(backbone, n_ctx=2, depth=9), (1e-5, 1e-4))
    compare_images(backbone, 9, 2)


def test_a_siglip_b_16() -> None:
    backbone = of_card(full("ViT-B-16-SigLIP"))
    assert from_theirs(backbone, 1) == 0
    assert_texts_are_read_alike(backbone, ["a photo of a cat", "a photo of a dog, a type of pet"])
    compare(backbone, learner(backbone, n_ctx=16), (1e-5, 1e-5))


def test_a_mobile_clip_b() -> None:
    backbone = of_card(full("MobileCLIP-B"))
    assert from_theirs(backbone, 1) == 0
    assert_texts_are_read_alike(backbone, ["a photo of a cat.", "a photo of a dog, a type of pet."])
