"""Models that enlarge images themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from advpt.attacks import parse
from advpt.backbones.clip import Backbone
from advpt.backbones.enlarging import ENLARGES, EnlargingBackbone
from advpt.errors import DataError
from tests.helpers.banks import classifier


def checks(n: int, size: int) -> torch.Tensor:
    """Black and white squares, whose bicubic enlargement leaves [0, 1]."""
    board = (torch.arange(size)[:, None] // 2 + torch.arange(size) // 2) % 2
    return board.float().expand(n, 3, size, size).clone()


def test_images_are_enlarged_without_antialias_and_without_a_clamp(tiny_clip: Backbone) -> None:
    made, own = EnlargingBackbone(tiny_clip, (8, 8)), tiny_clip.require_image()
    pixels = checks(2, 8)
    large = F.interpolate(pixels, (32, 32), mode="bicubic", align_corners=False)
    assert float(large.min()) < -0.01 and float(large.max()) > 1.01
    with torch.no_grad():
        assert torch.equal(made.require_image()(pixels), own(large))
        assert not torch.allclose(made.require_image()(pixels), own(large.clamp(0, 1)), atol=1e-6)
        visual = torch.randn(1, 2, own.card.width or 0, generator=torch.Generator().manual_seed(0))
        assert torch.equal(made.require_image().features(pixels, visual), own.features(large, visual))


def test_at_its_own_size_it_is_the_same_model_with_another_hash(tiny_clip: Backbone) -> None:
    made, pixels = EnlargingBackbone(tiny_clip, (32, 32)), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(made.require_image()(pixels), tiny_clip.require_image()(pixels))
    assert made.image_digest != tiny_clip.image_digest and made.text_digest == tiny_clip.text_digest
    assert made.reads == {"image": None, "text": None, "enlarges": ENLARGES} and tiny_clip.reads is None
    assert EnlargingBackbone(tiny_clip, (8, 8)).image_digest == made.image_digest, "the size is in keys by itself"


def test_size_is_that_of_the_images_and_at_most_the_models(tiny_clip: Backbone) -> None:
    made = EnlargingBackbone(tiny_clip, (8, 8))
    made.require_size((8, 8))
    with pytest.raises(DataError, match="reads 8 x 8 pixels"):
        made.require_size((32, 32))
    with pytest.raises(DataError, match="the images have 40 x 40 pixels, more than the 32 x 32 of tiny"):
        EnlargingBackbone(tiny_clip, (40, 40))


def test_a_copy_enlarges_too_and_a_released_tower_has_a_hash(tiny_clip: Backbone) -> None:
    made, pixels = EnlargingBackbone(tiny_clip, (8, 8)), checks(1, 8)
    twin = made.copy()
    with torch.no_grad():
        assert torch.equal(twin.require_image()(pixels), made.require_image()(pixels))
    assert twin.image_digest == made.image_digest
    tiny_clip.release_image_encoder()
    released = EnlargingBackbone(tiny_clip, (8, 8))
    assert released.image is None and released.image_digest == made.image_digest


@settings(max_examples=10, deadline=None)
@given(size=st.integers(4, 16), eps=st.sampled_from([1.0, 4.0, 16.0]), seed=st.integers(0, 99))
def test_a_perturbation_has_the_images_size_and_stays_in_its_budget(size: int, eps: float, seed: int) -> None:
    from tests.helpers.banks import make_clip

    made, prompt = EnlargingBackbone(make_clip(), (size, size)), classifier()
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))
    attack = parse(f"pgd2-ce@{eps:g}").build()
    noise = torch.Generator().manual_seed(seed)
    out = attack(lambda x: prompt.logits(made.require_image()(x)), pixels, torch.tensor([0, 1]), noise)
    assert out.images.shape == pixels.shape and float(out.images.min()) >= 0 and float(out.images.max()) <= 1
    assert 0 < float((out.images - pixels).abs().max()) <= eps / 255 + 1e-6
