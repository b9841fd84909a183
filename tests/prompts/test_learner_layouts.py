"""Prompts in both towers: six layouts on the unmodified blocks of CLIP, for one state or for many samples at once."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from yacs.config import CfgNode

from advpt.backbones.clip import OFFICIAL, Backbone, card_of, find_card
from advpt.backbones.text_encoder import TextEncoder
from advpt.backbones.tokenizers import Bpe
from advpt.errors import ConfigError, PromptError
from advpt.prompts.learner import PromptLearner, check_layout
from advpt.settings import LAYOUTS, ContextSettings, extend_cfg
from tests.helpers.layouts import NAMES, make, pixels, settings
from trainers.fap import FAPSettings

TEXT = ("text", "text_deep", "independent", "t2v", "v2t")
VISUAL = ("visual", "independent", "t2v", "v2t")
PROMPTS = {
    "text": {"ctx"},
    "text_deep": {"ctx", "ctx_deep"},
    "visual": {"visual", "visual_deep"},
    "independent": {"ctx", "ctx_deep", "visual", "visual_deep"},
    "t2v": {"ctx", "ctx_deep"},
    "v2t": {"ctx", "visual_deep"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_parameters_and_gradients(clip: Backbone, layout: str) -> None:
    learner, encoder = make(clip, layout), clip.text
    own = dict(learner.named_parameters())
    assert {name for name in own if not name.startswith("couple_")} == PROMPTS[layout]
    assert any(name.startswith("couple_") for name in own) == (layout in ("t2v", "v2t"))
    assert set(learner.state_dict()) == set(own) and all(p.dtype == torch.float32 for p in own.values())
    state, loss = learner(), torch.zeros(())
    assert (state.text is None, state.visual is None) == (layout not in TEXT, layout not in VISUAL)
    if state.visual is not None:
        assert state.visual.shape == (3, 2, 128)
        features = clip.require_image().features(pixels(), state.visual)
        assert features.shape == (3, 32)
        loss = loss + features.square().sum()
    if state.text is not None:
        features = encoder(state.text)
        assert features.shape == (3, 32)
        loss = loss + features.square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own.values())
    assert all(p.grad is None and not p.requires_grad for p in clip.model.parameters())


def count(layout: str, **other: object) -> int:
    """Trainable numbers for OpenAI's ViT-B/32, from an encoder of its widths and depths."""
    model = card_of("ViT-B/32", dataclasses.replace(OFFICIAL["ViT-B/32"], vocabulary=49408))

    class Widths(TextEncoder):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.token_embedding = torch.nn.Embedding(49408, model.text.width)
            self.positional_embedding = torch.zeros(77, model.text.width)
            self.context_length, self.width = 77, model.text.width
            self.card, self.tokenizer = model.text, Bpe(model.text)

    given = {"depth": 9, **other}
    learner = PromptLearner(Widths(), NAMES, settings(layout, **given), torch.Generator(), model)
    return sum(p.numel() for p in learner.parameters())


def test_numbers_of_parameters_for_vit_b32() -> None:
    """Section 1.6 of the specification; for t2v also FAP's count of the released MaPLe-like models."""
    assert count("text", n=16, ctx_init="") == 8_192
    assert count("visual") == 13_824
    assert count("independent") == 23_040
    assert count("t2v") == 3_555_072
    assert count("v2t") == 3_557_120
    assert count("t2v", shared_coupling=True) == 3_555_072 - 7 * (512 * 768 + 768)


def walk_all_positions(clip: Backbone, learner: PromptLearner) -> Tensor:
    """Text features over all 77 positions of OpenAI's own transformer; deep prompts overwrite positions 1 .. n."""
    from tests.helpers.prompts import tokenize

    model, n = clip.model, learner.n_ctx
    tokens = tokenize([f"{' '.join(['X'] * n)} {'of a ' if len(learner.fixed) else ''}{name.replace('_', ' ')}."
                       for name in NAMES])  # fmt: skip
    x = model.token_embedding(tokens).clone()
    x[:, 1 : 1 + n] = learner.ctx
    x = (x + model.positional_embedding).permute(1, 0, 2)
    deep = learner().text.deep
    for i, block in enumerate(model.transformer.resblocks):
        if deep is not None and 0 < i <= len(deep):
            x = torch.cat([x[:1], deep[i - 1][:, None].expand(-1, len(NAMES), -1), x[1 + n :]])
        x = block(x)
    x = model.ln_final(x.permute(1, 0, 2))
    return x[torch.arange(len(NAMES)), tokens.argmax(-1)] @ model.text_projection


@pytest.mark.parametrize("init", ("", "a photo of a"))
@pytest.mark.parametrize("csc", (False, True), ids=("shared", "csc"))
@pytest.mark.parametrize("layout", ("text_deep", "independent", "v2t"))
def test_deep_text_prompts_equal_the_computation_over_all_positions(
    clip: Backbone, layout: str, csc: bool, init: str
) -> None:
    if csc and layout == "v2t":
        return
    learner, encoder = make(clip, layout, csc=csc, ctx_init=init), clip.text
    ours, theirs = encoder(learner().text), walk_all_positions(clip, learner)
    assert torch.allclose(ours, theirs, atol=2e-5)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    one = torch.autograd.grad((ours * weight).sum(), list(learner.parameters()), allow_unused=True)
    other = torch.autograd.grad((theirs * weight).sum(), list(learner.parameters()), allow_unused=True)
    for mine, wanted in zip(one, other):
        assert (mine is None) == (wanted is None)
        assert mine is None or (mine - wanted).norm() <= 1e-4 * wanted.norm()


def test_it_starts_as_the_hand_written_prompt(clip: Backbone) -> None:
    encoder = clip.text
    learner = PromptLearner(encoder, NAMES, settings("text_deep", depth=1), card=clip.card)
    expected = encoder.encode_texts([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    assert torch.allclose(encoder(learner().text), expected, atol=1e-5)
    with pytest.raises(PromptError, match="CTX_INIT 'a photo of a' has 4 tokens, and N_CTX asks for 5"):
        make(clip, "t2v", n=5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompts_of_many_samples_at_once(clip: Backbone, layout: str) -> None:
    encoder, image = clip.text, clip.require_image()
    learners = [make(clip, layout, seed) for seed in range(3)]
    stacked = {
        name: torch.stack([dict(each.named_parameters())[name].detach() for each in learners])
        for name, _ in learners[0].named_parameters()
    }
    state, x = learners[0](stacked), pixels(6)
    if state.text is not None:
        together, alone = encoder(state.text), torch.stack([encoder(each().text) for each in learners])
        assert together.shape == (3, len(NAMES), 32) and torch.allclose(together, alone, atol=1e-5)
    if state.visual is not None:
        alone = torch.cat([image.features(x[2 * i : 2 * i + 2], each().visual)
                           for i, each in enumerate(learners)])  # fmt: skip
        assert torch.allclose(image.features(x, state.visual), alone, atol=1e-5)
        with pytest.raises(PromptError, match="5 images cannot be shared out evenly among the prompts of 3"):
            image.features(x[:5], state.visual)


def test_class_specific_prompts_of_many_samples(clip: Backbone) -> None:
    encoder = clip.text
    learners = [make(clip, "text_deep", seed, csc=True) for seed in range(2)]
    stacked = {
        name: torch.stack([dict(each.named_parameters())[name].detach() for each in learners])
        for name, _ in learners[0].named_parameters()
    }
    alone = torch.stack([encoder(each().text) for each in learners])
    assert torch.allclose(encoder(learners[0](stacked).text), alone, atol=1e-5)


def test_loading_takes_everything_or_nothing(clip: Backbone) -> None:
    one, other = make(clip, "t2v"), make(clip, "t2v", seed=1)
    other.load_context(one.state_dict(), "a file")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    shallow = make(clip, "t2v", depth=2)
    before = [p.clone() for p in shallow.parameters()]
    with pytest.raises(PromptError, match=r"ctx_deep of shape \[2, 2, 64\], this run has \[1, 2, 64\].*LAYOUT and dep"):
        shallow.load_context(one.state_dict(), "a file")
    assert all(torch.equal(a, b) for a, b in zip(before, shallow.parameters()))
    with pytest.raises(PromptError, match="no prompts of layout independent.*'visual'"):
        make(clip, "independent").load_context(one.state_dict(), "a file")
    with pytest.raises(PromptError, match="also holds couple_deep_bias.*LAYOUT text_deep has no place"):
        make(clip, "text_deep").load_context(one.state_dict(), "a file")


def configured(**changed: object) -> ContextSettings:
    cfg = CfgNode()
    extend_cfg(cfg)
    values = {"LAYOUT": "t2v", "DEPTH_TEXT": 3, "DEPTH_VISION": 3}
    cfg.TRAINER.FAP.update(values | changed)
    return FAPSettings.from_cfg(cfg).context()


@pytest.mark.parametrize(
    ("changed", "said"),
    (
        ({"LAYOUT": "t2w"}, "unknown value 't2w'. Did you mean 't2v'"),
        ({"N_VISION": 4}, "N_CTX 2 and N_VISION 4 must be equal"),
        ({"DEPTH_VISION": 2}, "DEPTH_TEXT 3 and DEPTH_VISION 2"),
        ({"CSC": True}, "CSC True does not go with LAYOUT t2v"),
        ({"CLASS_TOKEN_POSITION": "front"}, "needs CLASS_TOKEN_POSITION end, not front"),
        ({"DEPTH_TEXT": 0}, "DEPTH_TEXT 0.*at least 1"),
    ),
)
def test_settings_that_no_prompt_can_have(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(**changed)
    assert configured().layout == "t2v"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_which_clip_can_have_which_prompts(layout: str) -> None:
    chosen = settings(layout, depth=9)
    for name in ("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"):
        check_layout(chosen, find_card(name), name)
    if layout in VISUAL:
        with pytest.raises(PromptError, match="RN50.s image encoder is a ResNet"):
            check_layout(chosen, find_card("RN50"), "RN50")
    else:
        check_layout(chosen, find_card("RN50"), "RN50")
    if layout != "text":
        with pytest.raises(PromptError, match=r"DEPTH_\w+ is 13, and ViT-B/32 has 12 blocks"):
            check_layout(settings(layout, depth=13), find_card("ViT-B/32"), "ViT-B/32")
