"""One suite over the towers of every family, against what their own code computes."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import pytest
import torch
from torch import Tensor

from advpt.backbones import packed_text
from advpt.backbones.backbone import Backbone, ImageEncoder
from advpt.backbones.card import ImageCard
from advpt.backbones.text_encoder import TextEncoder
from advpt.errors import PromptError
from advpt.prompts.learner import PromptLearner
from advpt.settings import POSITIONS, ContextSettings
from tests.helpers.towers import (
    CLASSES,
    NAMES,
    WITHOUT_TOKENS,
    apart,
    compare,
    compare_images,
    learner,
    make,
    own_image,
    own_text,
    pixels,
    shake,
)

pytest.importorskip("open_clip")
WITH_TOKENS = [name for name in NAMES if name not in WITHOUT_TOKENS]


@pytest.fixture(scope="module", params=NAMES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return make(request.param)


@pytest.fixture(scope="module", params=WITH_TOKENS)
def with_tokens(request: pytest.FixtureRequest) -> Backbone:
    return make(request.param)


@pytest.fixture(params=(0, 10**6), ids=("packed", "shared"))
def widest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of a tower that shares the beginning of prompts."""
    monkeypatch.setattr(packed_text, "WIDTH", request.param)


# --- texts ------------------------------------------------------------------------------------------------------


def test_texts_are_what_the_models_own_code_makes_of_them(backbone: Backbone) -> None:
    texts = ["a photo of a cat.", "a", "a photo of a great white shark, you."]
    with torch.no_grad():
        theirs = own_text(backbone, backbone.tokenizer.batch(texts))
        assert apart(backbone.text.encode_texts(texts), theirs) <= 1e-5


@pytest.mark.parametrize("csc", (False, True), ids=("shared by classes", "csc"))
@pytest.mark.parametrize("position", POSITIONS)
def test_learned_context_and_its_gradient(backbone: Backbone, widest: None, position: str, csc: bool) -> None:
    gradients = 1e-5 if backbone.name == "SigLIP" else 5e-5
    compare(backbone, learner(backbone, csc=csc, position=position), (1e-5, gradients))


@pytest.mark.parametrize("csc", (False, True), ids=("shared by classes", "csc"))
def test_deep_context_and_its_gradient(backbone: Backbone, widest: None, csc: bool) -> None:
    compare(backbone, learner(backbone, csc=csc, depth=2), (1e-5, 1e-4))


def test_prompts_of_samples_are_those_of_each(backbone: Backbone, widest: None) -> None:
    prompts = learner(backbone, depth=2)
    values = {
        name: torch.stack([value.detach(), value.detach().flip(-1)]) for name, value in prompts.named_parameters()
    }
    together = backbone.text(prompts(values).text)
    alone = [backbone.text(prompts({k: v[i] for k, v in values.items()}).text) for i in range(2)]
    assert apart(together, torch.stack(alone)) <= 1e-5 and apart(together[0], together[1]) > 1e-3


def test_a_tower_that_reads_everything_never_shares(backbone: Backbone, widest: None, monkeypatch) -> None:
    """Neither with gradients nor without; and the padding of a short prompt is computed like that of a long one."""
    card, seen = backbone.card.text, []
    shares = (card.causal, card.reads) == (True, "end")

    def forbidden(*_: object) -> Tensor:
        raise AssertionError("this tower has no prefix to share")

    if not shares:
        monkeypatch.setattr(TextEncoder, "_shared", forbidden)
        monkeypatch.setattr(TextEncoder, "_packed", forbidden)
    hook = backbone.text.transformer.resblocks[0].ln_2.register_forward_hook(lambda _, x, y: seen.append(y.shape[:-1]))
    backbone.text(learner(backbone)().text)
    with torch.no_grad():
        backbone.text.encode_texts(["cat", "a photo of a cat, a pet"])
        for text in ("cat", "a photo of a cat, a pet"):
            backbone.text.encode_texts([text])
    hook.remove()
    assert all(shape == (shape[0], card.context) for shape in seen) != shares


# --- images -----------------------------------------------------------------------------------------------------


def test_images_are_what_the_models_own_code_makes_of_them(backbone: Backbone) -> None:
    """To the last bit, with gradients and without; of 8 images, as MKL rounds the rows left over by fours otherwise."""
    x = pixels(backbone, 8).requires_grad_()
    ours, theirs = backbone.require_image()(x), own_image(backbone, x)
    assert torch.equal(ours, theirs)
    assert all(torch.equal(*pair) for pair in zip(*(torch.autograd.grad(f.square().sum(), x) for f in (ours, theirs))))
    with torch.no_grad():
        assert torch.equal(backbone.require_image()(x), theirs) and torch.equal(own_image(backbone, x), theirs)


def test_every_image_by_itself(backbone: Backbone) -> None:
    """A tower whose layout is taken for another one's mixes images with tokens."""
    encoder, x, order = backbone.require_image(), pixels(backbone), [2, 0, 1]
    states: list[Tensor] = []
    prompts = 0.3 * torch.randn(2, 2, backbone.card.image.width or 1, generator=torch.Generator().manual_seed(0))
    prompted = {} if backbone.name in WITHOUT_TOKENS else {"visual": prompts, "hidden_states": states}
    with torch.no_grad():
        for options in ({}, prompted):
            together = encoder.features(x, **options)
            assert apart(encoder.features(x[order], **options), together[order]) < 1e-6
            for row, image in zip(together, x):
                assert apart(encoder.features(image[None], **options)[0], row) < 1e-6


def test_visual_prompts_and_their_gradient(with_tokens: Backbone) -> None:
    for layers, n in ((1, 1), (2, 3)):
        compare_images(with_tokens, layers, n)


def test_no_prompts_change_no_bit(with_tokens: Backbone) -> None:
    encoder, x = with_tokens.require_image(), pixels(with_tokens, 8)
    with torch.no_grad():
        assert torch.equal(encoder.features(x, torch.zeros(2, 0, with_tokens.card.image.width)), encoder(x))


def test_the_packages_of_a_model_are_those_of_its_code(backbone: Backbone) -> None:
    own = {"open_clip"} if hasattr(backbone.model, "attn_mask") or hasattr(backbone.model, "text") else set()
    timm = {"timm"} if backbone.card.image.kind == "timm" else set()
    assert set(backbone.packages) == own | timm


def test_what_stands_before_each_block(with_tokens: Backbone) -> None:
    card, x, states = with_tokens.card.image, pixels(with_tokens), []
    visual = torch.randn(2, 2, card.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with_tokens.require_image().features(x, visual, states)
    assert [tuple(state.shape) for state in states] == [(3, card.tokens + 2, card.width)] * card.blocks
    assert torch.equal(states[1][:, -2:], visual[1].expand(3, -1, -1))


@pytest.mark.parametrize(("name", "family"), WITHOUT_TOKENS.items())
def test_what_has_no_tokens_refuses_visual_prompts(name: str, family: str) -> None:
    made = make(name)
    settings = dataclasses.replace(ContextSettings(2, False, "", "end", "fp32"), layout="visual", depth_vision=1)
    with pytest.raises(PromptError, match=f"encoder is a {family} and has none: use LAYOUT text or text_deep"):
        PromptLearner(made.text, CLASSES, settings, None, made.card)
    with pytest.raises(PromptError, match=f"encoder is a {family} and has none"):
        made.require_image().features(pixels(made), torch.zeros(1, 2, 8))


def test_a_tower_of_timm_with_registers_and_a_norm_before_its_first_block() -> None:
    """None of open_clip's own configurations has them; others may."""
    timm = pytest.importorskip("timm.models.vision_transformer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = timm.VisionTransformer(
            32, 8, embed_dim=64, depth=2, num_heads=2, num_classes=0, pre_norm=True, reg_tokens=2, no_embed_class=True
        )
    tower = torch.nn.Sequential(OrderedDict(trunk=shake(trunk).eval(), head=torch.nn.Identity()))
    encoder = ImageEncoder(tower.requires_grad_(False), ImageCard((32, 32), "", kind="timm", tokens=19))
    x, states = torch.rand(3, 3, 32, 32), []
    assert torch.equal(encoder.features(x, hidden_states=states), tower(encoder.normalise(x)))
    assert [tuple(state.shape) for state in states] == [(3, 19, 64)] * 2


# --- the card ---------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_modules_are(backbone: Backbone) -> None:
    """Sizes, heads and norms of both towers, which the digests take from the card."""
    image, text, encoder = backbone.card.image, backbone.card.text, backbone.text
    blocks = encoder.transformer.resblocks
    assert (len(blocks), blocks[0].attn.num_heads, blocks[0].ln_1.eps) == (text.blocks, text.heads, text.eps)
    assert tuple(encoder.token_embedding.weight.shape) == (text.vocabulary, text.width)
    assert len(encoder.positional_embedding) == text.context
    kinds = {"quickgelu": "QuickGELU()", "gelu": "GELU(approximate='none')", "gelu_tanh": "GELU(approximate='tanh')"}
    assert repr(blocks[0].mlp.gelu) == kinds[text.activation]
    if image.kind == "vit":
        block = backbone.model.visual.transformer.resblocks[0]
        assert (block.attn.num_heads, block.ln_1.eps) == (image.heads, image.eps)
        assert repr(block.mlp.gelu) == kinds[image.activation]
    with torch.no_grad():
        assert backbone.require_image()(pixels(backbone, 1)).shape == (1, backbone.card.embed_dim)


def test_all_of_them_are_read_as_they_say() -> None:
    """The same tensors as OpenAI's code reads them have the tensors' hash; others one of their own."""
    made = {name: make(name) for name in ("ViT", "ViT, quickgelu", "OpenAI")}
    assert made["OpenAI"].reads is None
    reads = made["ViT"].reads
    assert reads is not None and reads["image"]["activation"] == reads["text"]["activation"] == "gelu"
    assert made["ViT"].image_digest != made["ViT, quickgelu"].image_digest
