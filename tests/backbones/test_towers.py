"""The image encoder against OpenAI's vision transformer, bit by bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advpt.backbones.clip import Architecture, Backbone, backbone_of, build
from advpt.backbones.democlip import NAME, load
from advpt.backbones.towers import ROWS


@pytest.fixture(scope="module", params=("DemoCLIP", "768 wide, 12 heads"))
def backbone(request: pytest.FixtureRequest) -> Backbone:
    if request.param == NAME:
        return backbone_of(NAME, load())
    torch.manual_seed(0)
    return backbone_of("wide", build(Architecture(64, 64, 2, 768, 32, 77, 100, 64, 1)))


def with_gradient(encode, pixels: Tensor) -> tuple[Tensor, Tensor]:
    pixels = pixels.clone().requires_grad_()
    features = encode(pixels)
    return features.detach(), torch.autograd.grad(features.square().sum(), pixels)[0]


@pytest.mark.parametrize("images", (1, 3, ROWS - 1, ROWS, 40))
def test_features_and_gradients_are_those_of_openais_module(backbone: Backbone, images: int) -> None:
    encoder, side = backbone.require_image(), backbone.card.image.size[0]
    pixels = torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(images))
    ours = with_gradient(encoder, pixels)
    theirs = with_gradient(lambda x: backbone.model.visual((x - encoder.mean) / encoder.std), pixels)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    with torch.no_grad():
        assert torch.equal(encoder(pixels), theirs[0])


def test_autocast_computes_what_openais_module_computes_under_it(backbone: Backbone) -> None:
    encoder, side = backbone.require_image(), backbone.card.image.size[0]
    pixels = torch.rand(9, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = encoder(pixels).float(), encoder.visual((pixels - encoder.mean) / encoder.std).float()
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_a_trainable_tower_computes_all_of_itself(backbone: Backbone) -> None:
    """The gradient of a weight is a sum over all tokens, whose grouping decides the last bits."""
    encoder, side = backbone.require_image(), backbone.card.image.size[0]
    pixels = torch.rand(9, 3, side, side, generator=torch.Generator().manual_seed(0))
    weights = [encoder.visual.transformer.resblocks[-1].attn.in_proj_weight, encoder.visual.conv1.weight]
    encoder.requires_grad_(True)
    try:
        ours = torch.autograd.grad(encoder(pixels).square().sum(), weights)
        whole = encoder.visual((pixels - encoder.mean) / encoder.std)
        theirs = torch.autograd.grad(whole.square().sum(), weights)
    finally:
        encoder.requires_grad_(False)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs))
