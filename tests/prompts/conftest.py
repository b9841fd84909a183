"""A CLIP whose two towers differ in everything."""

from __future__ import annotations

import pytest
import torch

from advpt.backbones.clip import Backbone, build, from_state
from tests.helpers.layouts import WIDE


@pytest.fixture(scope="module")
def clip() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return from_state("wide", build(WIDE).state_dict(), "the test suite")
