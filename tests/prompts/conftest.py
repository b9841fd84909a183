"""Towers of a tiny CLIP, and of one whose two towers differ in everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advpt.backbones.clip import Backbone, build, from_state
from advpt.prompts.text_encoder import TextEncoder
from tests.helpers.layouts import WIDE


class Towers(tuple):
    """OpenAI's model and our encoder on the same weights (both frozen)."""

    def __repr__(self) -> str:
        return "<towers>"


@pytest.fixture(scope="module")
def towers(tiny_state: dict[str, Tensor]) -> Towers:
    model = from_state("tiny", tiny_state, "the test suite").model
    return Towers((model, TextEncoder(model)))


@pytest.fixture(scope="module")
def clip() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return from_state("wide", build(WIDE).state_dict(), "the test suite")
