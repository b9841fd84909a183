"""Outputs of all tokens of an image tower: the tower's own, whatever code it is of."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.backbones.card import ImageCard
from advpt.errors import PromptError
from tests.helpers.towers import NAMES, apart, hooks, make, pixels

pytest.importorskip("open_clip")
WITHOUT_CLASS_TOKEN = {
    "mean of patches": "vit, pooling: mean", "CLIPA": "vit, pooling: mean", "ResNet": "resnet, pooling: attention",
    "ConvNeXt": "timm, pooling: ", "SigLIP": "timm, pooling: map", "MobileCLIP": "timm, pooling: class",
    "MobileCLIP-S": "timm, pooling: ",
}  # fmt: skip
WITH_CLASS_TOKEN = [name for name in NAMES if name not in WITHOUT_CLASS_TOKEN]


@pytest.fixture(scope="module", params=WITH_CLASS_TOKEN)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return make(request.param)


def own_tokens(backbone: Backbone, images: Tensor) -> Tensor:
    """The output of the tower's own blocks, taken by a hook, behind its own norm and projection."""
    tower, outputs = backbone.model.visual, []
    encoder = backbone.require_image()
    with hooks(tower.transformer.register_forward_hook(lambda _, args, out: outputs.append(out))):
        tower((images - encoder.mean) / encoder.std)
    x = outputs[0] if backbone.card.config else outputs[0].transpose(0, 1)
    return tower.ln_post(x) @ tower.proj


def test_tokens_are_those_of_the_towers_own_code(backbone: Backbone) -> None:
    encoder, card, x = backbone.require_image(), backbone.card, pixels(backbone, 3).requires_grad_()
    tokens, own = encoder.tokens(x), own_tokens(backbone, x)
    assert tokens.shape == (3, card.image.tokens, card.embed_dim) and tokens.dtype == torch.float32
    assert apart(tokens, own) < 1e-6
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    one, other = (torch.autograd.grad((each * weights).sum(), x)[0] for each in (tokens, own))
    assert apart(one, other) < 1e-5


@pytest.mark.parametrize("images", (1, 9))
@pytest.mark.parametrize("trainable", (False, True))
def test_the_class_token_is_the_feature(backbone: Backbone, images: int, trainable: bool) -> None:
    """So that logits and maps of one pass are of one tower."""
    encoder, x = backbone.require_image(), pixels(backbone, images)
    encoder.requires_grad_(trainable)
    try:
        first, feature = encoder.tokens(x)[:, 0], encoder(x)
        assert apart(first, feature) < 1e-6
        if trainable:
            weights = list(encoder.visual.parameters())
            for one, other in zip(*(torch.autograd.grad(f.square().sum(), weights) for f in (first, feature))):
                assert (one - other).norm() <= 1e-5 * other.norm() + 1e-5
    finally:
        encoder.requires_grad_(False)


@pytest.mark.parametrize(("name", "what"), WITHOUT_CLASS_TOKEN.items())
def test_what_has_no_class_token_is_refused(name: str, what: str) -> None:
    made = make(name)
    says = f"this model's image encoder is a {made.card.image.family} without such tokens .code: {what}"
    with pytest.raises(PromptError, match=says):
        made.require_image().tokens(pixels(made, 1))


@pytest.mark.parametrize(
    ("size", "patches", "grid"),
    (((224, 224), 49, (7, 7)), ((32, 32), 64, (8, 8)), ((384, 256), 27 * 18, (27, 18)), ((64, 224), 14, (2, 7))),
)
def test_rows_and_columns_of_the_patches(size: tuple[int, int], patches: int, grid: tuple[int, int]) -> None:
    assert ImageCard(size, tokens=1 + patches).grid == grid


def test_the_grid_of_a_tower(backbone: Backbone) -> None:
    rows, columns = backbone.card.image.grid
    assert 1 + rows * columns == backbone.card.image.tokens
    assert not dataclasses.replace(backbone.card.image, pool="mean").reads_class_token
