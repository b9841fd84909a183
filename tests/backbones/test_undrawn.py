"""Models built without drawing are, with their tensors loaded, the models that were drawn."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from advpt.backbones import open_clip
from advpt.backbones.clip import Architecture, build
from advpt.backbones.undrawn import Undrawn
from tests.helpers.towers import CONFIGS, card
from tests.helpers.workspace import TINY

RESNET = dataclasses.replace(TINY, resolution=32, patch=None, vision_layers=(1, 1, 1, 1), vision_width=8)


@pytest.mark.parametrize("arch", (TINY, RESNET), ids=("ViT", "ResNet"))
def test_a_model_of_tensors_is_built_without_drawing_and_is_the_same(arch: Architecture) -> None:
    drawn, before = build(arch), torch.get_rng_state()
    with Undrawn():
        undrawn = build(arch)
    assert torch.equal(torch.get_rng_state(), before)
    undrawn.load_state_dict(drawn.state_dict())
    for one, other in zip(
        (*drawn.parameters(), *drawn.buffers()), (*undrawn.parameters(), *undrawn.buffers()), strict=True
    ):
        assert torch.equal(one, other)
    text, size = torch.tensor([[49406, 320, 49407] + 74 * [0]]), arch.resolution
    for one, other in zip(*(m.eval()(torch.ones(1, 3, size, size), text) for m in (drawn, undrawn)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_of_open_clip_is_built_without_drawing_and_is_the_same(name: str) -> None:
    pytest.importorskip("open_clip")
    drawn, before = open_clip.build(card(name)), torch.get_rng_state()
    with Undrawn():
        undrawn = open_clip.build(card(name))
    assert torch.equal(torch.get_rng_state(), before)
    undrawn.load_state_dict(drawn.state_dict())
    for kind in ("named_parameters", "named_buffers"):
        for (one, a), (other, b) in zip(getattr(drawn, kind)(), getattr(undrawn, kind)(), strict=True):
            assert one == other and torch.equal(a, b), one
