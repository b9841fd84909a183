"""The frozen model that the rest of the library sees."""

from __future__ import annotations

import pytest
import torch

from advpt.backbones.clip import Architecture, Backbone, backbone_of, build
from advpt.data.images import Preprocessing
from advpt.errors import DataError, PromptError, WeightsError


def test_a_copy_has_tensors_and_hashes_of_its_own(tiny_clip: Backbone) -> None:
    tiny_clip.require_image().requires_grad_(True)
    before, same = tiny_clip.image_digest, tiny_clip.copy()
    with torch.no_grad():
        tiny_clip.require_image().visual.proj.add_(1)
    assert (same.image_digest, same.text_digest, same.name) == (before, tiny_clip.text_digest, "tiny")
    assert tiny_clip.copy().image_digest != before
    assert not any(weight.requires_grad for weight in same.model.parameters())


def test_a_released_image_encoder_leaves_its_hash(tiny_clip: Backbone) -> None:
    before = tiny_clip.image_digest
    tiny_clip.release_image_encoder()
    assert tiny_clip.image_digest == before
    with pytest.raises(WeightsError, match="was released"):
        tiny_clip.require_image()


def test_another_size_of_images_is_refused(tiny_clip: Backbone) -> None:
    tiny_clip.require_size((32, 32))
    with pytest.raises(DataError, match=r'INPUT.SIZE is \(48, 48\), but tiny reads 32 x 32 pixels; .*"\(32,32\)"'):
        tiny_clip.require_size((48, 48))


def test_pictures_that_are_read_otherwise_are_refused(tiny_clip: Backbone) -> None:
    tiny_clip.require_preprocessing(Preprocessing((32, 32), "bicubic"))
    tiny_clip.require_preprocessing(Preprocessing((32, 32), "bilinear"))
    with pytest.raises(DataError, match="INPUT.RESIZE is squash, but tiny was trained on .* INPUT.RESIZE shortest"):
        tiny_clip.require_preprocessing(Preprocessing((32, 32), "bicubic", "squash"))
    with pytest.raises(DataError, match="INPUT.SIZE is"):
        tiny_clip.require_preprocessing(Preprocessing((48, 48), "bicubic"))


def test_an_image_without_tokens_has_no_prompts() -> None:
    encoder = backbone_of("RN", build(Architecture(16, 64, (1, 1, 1, 1), 8, None, 77, 100, 64, 1))).require_image()
    pixels = torch.rand(1, 3, 64, 64)
    assert encoder.features(pixels).shape == (1, 16)
    for visual, states in ((torch.zeros(1, 2, 64), None), (None, [])):
        with pytest.raises(PromptError, match="visual prompts are tokens .* is a ResNet and has none: use LAYOUT text"):
            encoder.features(pixels, visual, states)
