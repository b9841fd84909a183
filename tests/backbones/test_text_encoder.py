"""Prefix sharing against CoOp's computation over all 77 positions, on OpenAI's own model code."""

from __future__ import annotations

import dataclasses
import string
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from advpt.backbones import packed_text
from advpt.backbones.shim import import_clip
from advpt.backbones.text_encoder import PromptBatch, TextEncoder
from advpt.errors import PromptError
from advpt.prompts.learner import PromptLearner
from advpt.settings import POSITIONS, ContextSettings
from tests.helpers.prompts import ODD_NAMES, run_all_positions, tokenize, word_tokens

WORDS = [
    "oak",
    "river",
    "great white shark",
    "electroencephalogram",
    "forget-me-not",
    "black-eyed_susan",
    "St. Bernard's",
]
WORDS += ["747", "cat!", "a_very_long_name_that_goes_on_and_on_and_on_for_ever", "(red) <tag>", "hydrangea", "7-Eleven"]


@pytest.fixture(autouse=True)
def packed_in_narrow_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The towers of these tests are narrow."""
    monkeypatch.setattr(packed_text, "WIDTH", 0)


def test_narrow_towers_keep_the_bits_of_the_plain_way(towers, monkeypatch: pytest.MonkeyPatch) -> None:
    _, encoder = towers
    prompts = learner(encoder, names_for(5), 4, "end", False)
    monkeypatch.setattr(packed_text, "WIDTH", encoder.width + 1)
    with torch.no_grad():
        plain = encoder(prompts().text)
    assert torch.equal(encoder(prompts().text), plain)


def names_for(k: int) -> list[str]:
    """K different names, from one token to more than a dozen."""
    if k <= len(ODD_NAMES):
        return ODD_NAMES[:k]
    return [f"{WORDS[i % len(WORDS)]} {WORDS[i // len(WORDS) % len(WORDS)]}_{i}" for i in range(k)]


def context_settings(m: int, position: str, csc: bool = False, init: str = "") -> ContextSettings:
    return ContextSettings(m, csc, init, position, "fp32")


def learner(encoder: TextEncoder, names: list[str], m: int, position: str, csc: bool, seed: int = 0) -> PromptLearner:
    made = PromptLearner(encoder, names, context_settings(m, position, csc), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made.ctx.mul_(5)  # far enough from zero that a misplaced vector shows
    return made


def coop(model: Any, names: list[str], ctx: Tensor, position: str) -> Tensor:
    """CoOp's PromptLearner and TextEncoder, written as the original computes them."""
    clip = import_clip()
    names = [name.replace("_", " ") for name in names]
    m = ctx.shape[-2]
    tokens = torch.cat([clip.tokenize(" ".join(["X"] * m) + " " + name + ".") for name in names])
    embedding = model.token_embedding(tokens)
    prefix, suffix = embedding[:, :1, :], embedding[:, 1 + m :, :]
    if ctx.dim() == 2:
        ctx = ctx.unsqueeze(0).expand(len(names), -1, -1)
    lengths = [len(clip.clip._tokenizer.encode(name)) for name in names]
    if position == "end":
        prompts = torch.cat([prefix, ctx, suffix], dim=1)
    else:
        half = m // 2 if position == "middle" else 0
        rows = []
        for i, n in enumerate(lengths):
            parts = [prefix[i], ctx[i, :half], suffix[i, :n], ctx[i, half:], suffix[i, n:]]
            rows.append(torch.cat(parts, dim=0))
        prompts = torch.stack(rows)
    return run_all_positions(model, prompts, tokens)


def loss_of(features: Tensor) -> Tensor:
    """Cross-entropy of fixed image embeddings to the prompts, as in tuning."""
    g = torch.Generator().manual_seed(3)
    k = len(features)
    vectors = F.normalize(torch.randn(8, features.shape[1], generator=g), dim=-1)
    labels = torch.randint(k, (8,), generator=g)
    return F.cross_entropy(100 * vectors @ F.normalize(features, dim=-1).T, labels)


def compare(model: Any, encoder: TextEncoder, names: list[str], m: int, position: str, csc: bool) -> None:
    ours = learner(encoder, names, m, position, csc)
    features = encoder(ours().text)
    theirs_ctx = ours.ctx.detach().clone().requires_grad_()
    expected = coop(model, names, theirs_ctx, position)
    worst = (F.normalize(features, dim=-1) - F.normalize(expected, dim=-1)).abs().max()
    assert worst < 1e-5
    if len(names) > 1:
        (gradient,) = torch.autograd.grad(loss_of(features), ours.ctx)
        (wanted,) = torch.autograd.grad(loss_of(expected), theirs_ctx)
        assert (gradient - wanted).norm() < 1e-4 * max(float(wanted.norm()), 1.0)  # typically 10


@pytest.mark.parametrize("csc", (False, True), ids=("shared", "csc"))
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(("k", "m"), ((1, 4), (3, 1), (3, 32), (7, 5), (37, 16)))
def test_equals_coop_on_77_positions(towers, k: int, m: int, position: str, csc: bool) -> None:
    compare(*towers, names_for(k), m, position, csc)


@pytest.mark.parametrize(("position", "csc", "m"), (("end", False, 16), ("middle", True, 4)))
def test_equals_coop_with_397_classes(towers, position: str, csc: bool, m: int) -> None:
    compare(*towers, names_for(397), m, position, csc)


name = st.text(string.ascii_letters + string.digits + " _-.,!?'&()/<>éßλ", min_size=1, max_size=24)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(name, min_size=1, max_size=4, unique_by=lambda n: tuple(word_tokens(n.replace("_", " ")))),
    m=st.integers(1, 24),
    position=st.sampled_from(POSITIONS),
    csc=st.booleans(),
)
def test_equals_coop_for_any_names(towers, names: list[str], m: int, position: str, csc: bool) -> None:
    compare(*towers, names, m, position, csc)


def test_prompt_that_fills_the_whole_context(towers) -> None:
    model, encoder = towers
    names = ["cat", "great white shark"]
    room = 77 - 2 - len(word_tokens("great white shark."))
    for position in POSITIONS:
        compare(model, encoder, names, room, position, False)


def test_hand_written_prompts_equal_encode_text(towers) -> None:
    model, encoder = towers
    texts = [f"a photo of a {n}." for n in names_for(37)] + ["", "a", "zebra", " ".join(["dog"] * 75)]
    tokens = tokenize(texts)
    assert torch.equal(tokens, import_clip().tokenize(texts).long())
    with torch.no_grad():
        expected = model.encode_text(tokens)
        worst = (encoder.encode_tokens(tokens) - expected).abs().max()
        assert worst < 1e-5
        for chunk in (1, 5, 41):
            assert (encoder.encode_tokens(tokens, chunk=chunk) - expected).abs().max() < 1e-5
        one = encoder.encode_texts(texts[:1])
        assert (one - expected[:1]).abs().max() < 1e-5
        same = encoder.encode_texts(["a dog", "a dog"])
        assert torch.equal(same[0], same[1])


def test_prompts_where_one_is_the_beginning_of_another(towers) -> None:
    model, encoder = towers
    tokens = tokenize(["a photo", "a photo of a cat", "a photo of"])
    with torch.no_grad():
        assert (encoder.encode_tokens(tokens) - model.encode_text(tokens)).abs().max() < 1e-5


def test_nothing_behind_the_end_token_matters(towers) -> None:
    _, encoder = towers
    prompts = learner(encoder, names_for(5), 4, "end", False)().text
    noisy = prompts.suffix.clone()
    for row, end in enumerate(prompts.eos.tolist()):
        noisy[row, end + 1 :] = 1e3
    longer = torch.cat([noisy, torch.full((5, 9, noisy.shape[-1]), float("nan"))], 1)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            expected = encoder(prompts)
            assert torch.equal(encoder(dataclasses.replace(prompts, suffix=noisy)), expected)
    assert torch.equal(encoder(dataclasses.replace(prompts, suffix=longer)), expected)
    moved = prompts.suffix.clone()
    moved[:, int(prompts.eos.min())] += 1
    assert not torch.allclose(encoder(dataclasses.replace(prompts, suffix=moved)), expected)


def test_every_split_of_the_same_prompt_gives_the_same_feature(towers) -> None:
    _, encoder = towers
    tokens = tokenize(["a photo of a red cat."] * 2)
    embedded = encoder.embed(tokens)
    end = int(tokens[0].argmax())
    features = [
        encoder(PromptBatch(embedded[0, :shared], embedded[:, shared:], torch.tensor([end - shared] * 2)))
        for shared in (1, 3, end)
    ]
    for other in features[1:]:
        assert (other - features[0]).abs().max() < 1e-5


@pytest.fixture(params=(0, 2, 10**6), ids=("one_length_each", "small_groups", "one_group"))
def padding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows of padding that a group of prompts may have."""
    monkeypatch.setitem(packed_text.PADDING, "cpu", request.param)
    return request.param


@pytest.mark.parametrize("csc", (False, True), ids=("shared", "csc"))
@pytest.mark.parametrize("position", POSITIONS)
def test_equals_coop_however_prompts_are_grouped(towers, padding: int, position: str, csc: bool) -> None:
    compare(*towers, names_for(12), 5, position, csc)


@pytest.mark.parametrize("csc", (False, True), ids=("shared", "csc"))
def test_equals_coop_in_parts(towers, monkeypatch: pytest.MonkeyPatch, csc: bool) -> None:
    monkeypatch.setitem(packed_text.AT_ONCE, "cpu", 20)
    for k in (1, 2, 12):
        compare(*towers, names_for(k), 5, "end", csc)


def test_only_positions_that_matter_are_computed(towers) -> None:
    """No padding where each length has a group of its own, and of the last block the end tokens alone."""
    model, encoder = towers
    prompts, seen = learner(encoder, names_for(37), 16, "end", False)().text, []
    hooks = [block.ln_2.register_forward_hook(lambda _, x, y: seen.append(len(x[0]))) for block in
             model.transformer.resblocks]  # fmt: skip
    encoder(prompts)
    for hook in hooks:
        hook.remove()
    needed, groups = 1 + 16 + int((prompts.eos + 1).sum()), len(prompts.eos.unique())
    assert seen[-1] == 37 and all(needed <= rows <= needed + 2 * groups for rows in seen[:-1])


@pytest.mark.parametrize("csc", (False, True), ids=("shared", "csc"))
@pytest.mark.parametrize("at_once", (2048, 20))
def test_gradients_of_many_samples_are_those_of_each(
    towers, padding: int, monkeypatch: pytest.MonkeyPatch, csc: bool, at_once: int
) -> None:
    """Deep prompts that reach beyond the shared prefix where contexts are class-specific."""
    monkeypatch.setitem(packed_text.AT_ONCE, "cpu", at_once)
    _, encoder = towers
    g = torch.Generator().manual_seed(5)
    one, k, width = learner(encoder, names_for(7), 4, "end", csc), 7, encoder.width
    ctx = torch.randn(3, *one.ctx.shape, generator=g).requires_grad_()
    deep = torch.randn(3, 1, 4, width, generator=g).requires_grad_()
    weight = torch.randn(3, k, encoder.text_projection.shape[1], generator=g)
    together = encoder(one.prompts_of(ctx, deep))
    alone = torch.stack([encoder(one.prompts_of(c, d)) for c, d in zip(ctx, deep)])
    assert torch.allclose(together, alone, atol=1e-5)
    for mine, wanted in zip(*(torch.autograd.grad((f * weight).sum(), (ctx, deep)) for f in (together, alone))):
        assert (mine - wanted).flatten(1).norm(dim=1).lt(1e-5 * wanted.flatten(1).norm(dim=1)).all()


def test_bfloat16_stays_near(towers) -> None:
    _, encoder = towers
    ours = learner(encoder, names_for(12), 5, "end", False)
    plain = encoder(ours().text)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(ours().text)
    assert F.cosine_similarity(half.float(), plain).min() > 0.999
    gradients = [torch.autograd.grad(loss_of(f.float()), ours.ctx)[0].flatten() for f in (half, plain)]
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


def test_the_end_positions_stay_on_the_cpu(towers) -> None:
    """The encoder reads them in every call: on a device it would wait."""
    made = learner(towers[1], names_for(3), 4, "end", True).to("meta")
    assert made.class_rows.device.type == "meta" and made.eos.device.type == "cpu"


@pytest.mark.parametrize("csc", (False, True), ids=("shared", "csc"))
def test_with_and_without_gradients_the_features_are_the_same_to_rounding(towers, csc: bool) -> None:
    _, encoder = towers
    prompts = learner(encoder, names_for(12), 5, "end", csc)
    with torch.no_grad():
        plain = encoder(prompts().text)
    packed = encoder(prompts().text)
    assert packed.requires_grad and not plain.requires_grad
    assert (packed - plain).abs().max() < 1e-5


def test_no_gradient_reaches_the_frozen_tower(towers) -> None:
    model, encoder = towers
    ours = learner(encoder, names_for(3), 4, "end", False)
    loss_of(encoder(ours().text)).backward()
    assert ours.ctx.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_text_that_is_too_long_is_named() -> None:
    long = " ".join(["dog"] * 76)
    with pytest.raises(PromptError, match=r"dog dog.* has 78 tokens; CLIP reads 77"):
        tokenize(["a cat", long])
