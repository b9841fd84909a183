"""Models of open_clip's classes: filled strictly, and never resampled."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from advpt.backbones import open_clip
from advpt.backbones.backbone import Backbone
from advpt.backbones.configs import card_of, read_open_clip
from advpt.errors import WeightsError
from tests.helpers.open_clip import VIT, changed
from tests.helpers.towers import CONFIGS, Letters, card, make

pytest.importorskip("open_clip")
State = dict[str, Tensor]


def tensors(name: str) -> State:
    return dict(make(name).model.state_dict())


def load(name: str, state: State) -> Backbone:
    what = card(name)
    return open_clip.load(what, state, "FILE", tokenizer=Letters(what.text))


def test_old_files_name_the_text_tower_without_its_prefix() -> None:
    state = tensors("SigLIP")
    whole, flat = load("SigLIP", state), load("SigLIP", {k.removeprefix("text."): v for k, v in state.items()})
    assert (flat.text_digest, flat.image_digest) == (whole.text_digest, whole.image_digest)
    with pytest.raises(WeightsError, match=r"FILE does not hold ViT: .* unknown \(the first is text\."):
        load("ViT", {f"text.{k}" if k.split(".")[0] in open_clip.TEXT else k: v for k, v in tensors("ViT").items()})


def test_half_precision_is_the_same_model() -> None:
    rounded = {k: v.half() if v.is_floating_point() else v for k, v in tensors("ViT").items()}
    one, other = load("ViT", rounded), load("ViT", {k: v.float() for k, v in rounded.items()})
    assert (one.text_digest, one.image_digest) == (other.text_digest, other.image_digest)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda s: s.pop("visual.proj"), "1 of .* tensors are missing .the first is visual.proj., 0 are unknown"),
        (lambda s: s.update(more=torch.zeros(1)), "0 of .* are missing, 1 are unknown .the first is more.; name the"),
        (lambda s: s["ln_final.weight"].__setitem__(0, float("nan")), "is damaged: ln_final.weight is not finite"),
        (lambda s: s.update({"visual.proj": torch.zeros(64, 8)}), r"proj has shape \[64, 8\], expected \[64, 32\]"),
        (lambda s: s.update(positional_embedding=torch.zeros(40, 64)), r"positional_embedding has shape \[40, 64\]"),
    ],
    ids=["missing", "left over", "not finite", "another shape", "another context length"],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(break_it: Callable[[State], object], message: str) -> None:
    state = copy.deepcopy(tensors("ViT"))
    break_it(state)
    with pytest.raises(WeightsError, match=message):
        load("ViT", state)


@pytest.mark.parametrize(("name", "side", "own"), [("ViT", 48, 32), ("SigLIP", 240, 160), ("ResNet", 96, 64)])
def test_positions_are_never_resampled(name: str, side: int, own: int) -> None:
    """open_clip's loader takes a file for 336 pixels into a model for 224, without a word."""
    state = tensors(name)
    (positions,) = (each for each in open_clip.POSITIONS if each in state)
    value, grid = state[positions], {"ViT": 6, "SigLIP": 15, "ResNet": 3}[name]
    rows = value.shape[-2] - {"ViT": 4, "SigLIP": 10, "ResNet": 2}[name] ** 2 + grid**2
    state[positions] = value.new_zeros(*value.shape[:-2], rows, value.shape[-1])
    with pytest.raises(WeightsError, match=f"the file is for images of {side} pixels, and {name} reads {own}"):
        load(name, state)


def test_building_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    open_clip.build(card("ViT"))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_open_clip_refuses_is_a_sentence() -> None:
    odd = card_of("odd", read_open_clip({"model_cfg": changed(VIT, vision={"pos_embed_type": "none"})}, "odd"))
    with pytest.raises(WeightsError, match=re.escape("open_clip cannot build odd of its configuration")):
        open_clip.build(odd)


def test_quickgelu_tensors_of_openais_sizes_are_openais_model() -> None:
    """The same tensors, read in the same way, have the digest that OpenAI's code gives them."""
    config = changed(CONFIGS["ViT, quickgelu"], vision={"head_width": 64}, text={"heads": 1})
    what = card_of("quick", read_open_clip({"model_cfg": config}, "quick"))
    made = open_clip.load(what, open_clip.build(what).state_dict(), "FILE")
    assert made.reads is None


def test_the_scale_and_the_bias_come_from_the_file() -> None:
    state = tensors("SigLIP") | {"logit_scale": torch.tensor(2.0), "logit_bias": torch.tensor(-12.5)}
    made = load("SigLIP", state)
    assert made.logit_scale == pytest.approx(2.71828**2, rel=1e-4) and made.logit_bias == -12.5
    assert make("ViT").logit_bias is None and made.card.head == "sigmoid"
