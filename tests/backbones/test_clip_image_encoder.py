"""Pixels in [0, 1] through our encoder against OpenAI's preprocessing and OpenAI's encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Normalize
from yacs.config import CfgNode

from advpt.backbones.card import CLIP_MEAN, CLIP_STD
from advpt.backbones.clip import Architecture, Backbone, backbone_of, build
from advpt.backbones.shim import import_clip
from advpt.data.images import Preprocessing, read_image
from trainers.advpt import to_pixels


@pytest.fixture(params=((61, 40), (33, 97), (32, 32)), ids=("wide", "tall", "square"))
def photo(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A JPEG of that (width, height) with smooth content, so that resizing matters."""
    width, height = request.param
    rows, columns = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(rows / (3 + c) + columns / (5 - c)) for c in range(3)]
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(path, quality=90)
    return path


def theirs(backbone: Backbone, photo: Path) -> Tensor:
    transform = import_clip().clip._transform(32)
    with Image.open(photo) as image, torch.no_grad():
        return backbone.model.encode_image(transform(image)[None])


def test_equals_openai_from_file_to_feature(tiny_clip: Backbone, photo: Path) -> None:
    pixels, _ = read_image(photo, Preprocessing((32, 32), "bicubic"))
    with torch.no_grad():
        ours = tiny_clip.require_image()(pixels[None])
    expected = theirs(tiny_clip, photo)
    assert ours.dtype == torch.float32
    assert expected.norm() > 0.1
    assert (ours - expected).abs().max() < 1e-6


def test_a_resnet_tower_sees_the_same_normalised_pixels() -> None:
    model = build(Architecture(16, 64, (1, 1, 1, 1), 8, None, 77, 100, 64, 1)).float().eval()
    pixels = torch.rand(2, 3, 64, 64)
    backbone = backbone_of("small ResNet", model)
    with torch.no_grad():
        expected = model.encode_image(Normalize(CLIP_MEAN, CLIP_STD)(pixels))
        assert torch.allclose(backbone.require_image()(pixels), expected, atol=1e-6)


def coop_cfg(transforms: tuple[str, ...] | list[str], no_transform: bool = False) -> CfgNode:
    return CfgNode(
        {
            "INPUT": {
                "TRANSFORMS": transforms,
                "NO_TRANSFORM": no_transform,
                "PIXEL_MEAN": list(CLIP_MEAN),
                "PIXEL_STD": list(CLIP_STD),
            }
        }
    )


@pytest.mark.parametrize("kind", (tuple, list))
def test_normalised_images_of_a_coop_checkout_give_the_same_features(tiny_clip: Backbone, photo: Path, kind) -> None:
    with Image.open(photo) as image:
        normalised = import_clip().clip._transform(32)(image)[None]
    cfg = coop_cfg(kind(("random_resized_crop", "random_flip", "normalize")))
    pixels = to_pixels(normalised, cfg)
    assert pixels.min() >= 0 and pixels.max() <= 1
    with torch.no_grad():
        ours = tiny_clip.require_image()(pixels)
    assert (ours - theirs(tiny_clip, photo)).abs().max() < 1e-5


@pytest.mark.parametrize("cfg", (coop_cfg(("random_flip",)), coop_cfg(()), coop_cfg(("normalize",), True)))
def test_a_normalisation_that_never_happened_is_not_undone(cfg: CfgNode) -> None:
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.equal(to_pixels(pixels, cfg), pixels)


def test_the_normalisation_is_openais() -> None:
    normalise = import_clip().clip._transform(32).transforms[-1]
    assert (tuple(normalise.mean), tuple(normalise.std)) == (CLIP_MEAN, CLIP_STD)


def test_gradients_reach_the_pixels_and_no_parameter(tiny_clip: Backbone) -> None:
    pixels = torch.rand(2, 3, 32, 32, requires_grad=True)
    encoder = tiny_clip.require_image()
    (gradient,) = torch.autograd.grad(encoder(pixels).square().sum(), pixels)
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    assert all(p.grad is None for p in encoder.parameters())
