"""Learnable context: what fits, where it starts, what is saved, and what may be loaded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advpt.backbones.clip import Backbone
from advpt.backbones.text_encoder import TextEncoder
from advpt.errors import PromptError
from advpt.prompts.learner import INIT_STD, PromptLearner
from advpt.settings import POSITIONS, ContextSettings
from tests.helpers.prompts import tokenize

NAMES = ["cat", "St. Bernard", "great_white_shark"]


@pytest.fixture
def encoder(tiny_clip: Backbone) -> TextEncoder:
    return tiny_clip.text


def make(
    encoder: TextEncoder,
    names: list[str] = NAMES,
    m: int = 4,
    csc: bool = False,
    init: str = "",
    position: str = "end",
    seed: int = 0,
) -> PromptLearner:
    chosen = ContextSettings(m, csc, init, position, "fp32")
    return PromptLearner(encoder, names, chosen, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("csc", (False, True))
def test_the_largest_number_of_vectors_is_named_and_fits(encoder: TextEncoder, position: str, csc: bool) -> None:
    with pytest.raises(
        PromptError, match=r"longest class name \('St. Bernard'\).*At most \d+ fit: set N_CTX"
    ) as caught:
        make(encoder, m=77, csc=csc, position=position)
    room = int(str(caught.value).split("At most ")[1].split()[0])
    encoder(make(encoder, m=room, csc=csc, position=position)().text)
    with pytest.raises(PromptError, match=f"{room + 1} context vectors do not fit"):
        make(encoder, m=room + 1, csc=csc, position=position)


def test_a_name_longer_than_the_context_leaves_no_room(encoder: TextEncoder) -> None:
    with pytest.raises(PromptError, match="At most 0 fit"):
        make(encoder, ["cat", " ".join(["dog"] * 75)], m=1)


def test_no_class_names(encoder: TextEncoder) -> None:
    with pytest.raises(PromptError, match="at least one class name"):
        make(encoder, [])


@pytest.mark.parametrize("init", ("a photo of a", "a_photo_of_a", "  a photo of a "))
def test_initial_words(encoder: TextEncoder, init: str) -> None:
    learner = make(encoder, m=16, init=init)
    words = tokenize(["a photo of a"])[0, 1:5]
    assert learner.n_ctx == 4  # the words decide, not N_CTX
    assert torch.equal(learner.ctx, encoder.embed(words))


def test_a_context_of_words_is_the_hand_written_prompt(encoder: TextEncoder) -> None:
    learner = make(encoder, init="a photo of a")
    with torch.no_grad():
        features = encoder(learner().text)
        expected = encoder.encode_texts([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    assert torch.allclose(features, expected, atol=1e-5)


def test_class_specific_initial_words_are_separate_copies(encoder: TextEncoder) -> None:
    learner = make(encoder, init="a photo", csc=True)
    assert learner.ctx.shape == (3, 2, 64)
    with torch.no_grad():
        learner.ctx[0] += 1
    assert not torch.equal(learner.ctx[0], learner.ctx[1])
    assert torch.equal(learner.ctx[1], learner.ctx[2])


def test_initial_words_do_not_share_memory_with_the_token_table(encoder: TextEncoder) -> None:
    before = encoder.token_embedding.weight.clone()
    learner = make(encoder, init="a photo")
    with torch.no_grad():
        learner.ctx.add_(1)
    assert torch.equal(encoder.token_embedding.weight, before)


def test_random_start_follows_the_generator_alone(encoder: TextEncoder) -> None:
    first = make(encoder, m=16, seed=1).ctx
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(make(encoder, m=16, seed=1).ctx, first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(make(encoder, m=16, seed=2).ctx, first)
    spread = make(encoder, m=70, seed=1).ctx.std()
    assert 0.9 * INIT_STD < spread < 1.1 * INIT_STD


@pytest.mark.parametrize("csc", (False, True))
def test_only_the_context_is_saved_and_trained(encoder: TextEncoder, csc: bool) -> None:
    learner = make(encoder, csc=csc)
    assert list(learner.state_dict()) == ["ctx"]
    assert [name for name, p in learner.named_parameters() if p.requires_grad] == ["ctx"]
    assert learner.ctx.dtype == torch.float32


def coop_state(ctx: Tensor, prefix: str = "") -> dict[str, Tensor]:
    """What CoOp's checkpoints hold: the context and two buffers that depend on the class list."""
    k = 3
    buffers = {"token_prefix": torch.zeros(k, 1, 64), "token_suffix": torch.zeros(k, 60, 64)}
    return {f"{prefix}{name}": value for name, value in {"ctx": ctx, **buffers}.items()}


@pytest.mark.parametrize("prefix", ("", "prompt_learner."))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
def test_context_of_coop_checkpoints(encoder: TextEncoder, prefix: str, dtype: torch.dtype) -> None:
    learner, ctx = make(encoder), torch.randn(4, 64).to(dtype)
    parameter = learner.ctx
    learner.load_context(coop_state(ctx, prefix), "a file")
    assert torch.equal(learner.ctx, ctx.float())
    assert learner.ctx is parameter  # the optimizer holds on to it


def test_shared_context_moves_to_another_class_list(encoder: TextEncoder) -> None:
    tuned, other = make(encoder), make(encoder, ["dog", "owl", "fox", "a very long name indeed"])
    other.load_context(tuned.state_dict(), "a file")
    assert torch.equal(other.ctx, tuned.ctx)


def test_class_specific_context_fits_no_other_class_list(encoder: TextEncoder) -> None:
    tuned = make(encoder, csc=True)
    for wanted in (make(encoder, NAMES[:2], csc=True), make(encoder)):
        before = wanted.ctx.clone()
        with pytest.raises(PromptError, match=r"model-7 holds context of shape \[3, 4, 64\].*class-specific"):
            wanted.load_context(tuned.state_dict(), "model-7")
        assert torch.equal(wanted.ctx, before)


def test_context_of_another_length_or_width(encoder: TextEncoder) -> None:
    learner = make(encoder)
    for shape in ((5, 64), (4, 63), (1, 64), (64,)):
        with pytest.raises(PromptError, match=r"this run has \[4, 64\].*Use the N_CTX"):
            learner.load_context({"ctx": torch.zeros(shape)}, "a file")


def test_a_state_without_context(encoder: TextEncoder) -> None:
    with pytest.raises(PromptError, match=r"a file holds no context vectors.*found: meta_net"):
        make(encoder).load_context({"meta_net": torch.zeros(1)}, "a file")


@pytest.mark.parametrize("prefix", ("module.", "module.prompt_learner.", "prompt_learner.module."))
def test_names_that_data_parallel_made_are_plain_ones(encoder: TextEncoder, prefix: str) -> None:
    learner, ctx = make(encoder), torch.randn(4, 64)
    learner.load_context(coop_state(ctx, prefix), "a file")
    assert torch.equal(learner.ctx, ctx)
    with pytest.raises(PromptError, match="holds 'ctx' twice"):
        learner.load_context({"ctx": ctx, f"{prefix}ctx": ctx}, "a file")


@pytest.mark.parametrize("name", ("proj.weight", "compound_prompts_text.0", "meta_net.linear1.weight", "VPT"))
def test_tensors_of_another_method_beside_the_context_are_refused(encoder: TextEncoder, name: str) -> None:
    learner = make(encoder)
    before = learner.ctx.clone()
    with pytest.raises(PromptError, match=f"a file also holds {name}, which LAYOUT text has no place for"):
        learner.load_context(coop_state(torch.randn(4, 64)) | {name: torch.zeros(2)}, "a file")
    assert torch.equal(learner.ctx, before)
