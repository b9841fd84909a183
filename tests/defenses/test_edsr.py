"""EDSR: its shapes, its words, and strict loading."""

from __future__ import annotations

import pytest
import torch

from advpt.defenses.edsr import from_state
from advpt.errors import WeightsError
from tests.helpers.defenses import published_like


def test_edsr_has_the_published_shape():
    model = from_state(published_like(), "here")
    assert sum(p.numel() for p in model.parameters()) == 1_369_859
    names = set(model.state_dict())
    assert {"head.0.weight", "body.0.body.0.weight", "body.15.body.2.bias", "body.16.weight"} <= names
    assert {"tail.0.0.weight", "tail.1.bias"} <= names and len(names) == 2 * (1 + 32 + 1 + 2)
    assert model(torch.rand(2, 3, 10, 12)).shape == (2, 3, 20, 24)


def test_edsr_in_its_own_words():
    """Against the pixel range of the original: 0 to 255, mean taken off and put back."""
    state = published_like()
    model, x = from_state(state, "here"), torch.rand(1, 3, 8, 8)
    f = torch.nn.functional
    shifted = f.conv2d(255 * x, state["sub_mean.weight"], state["sub_mean.bias"])
    head = f.conv2d(shifted, state["head.0.weight"], state["head.0.bias"], padding=1)
    inner = head
    for i in range(16):
        one = f.conv2d(inner, state[f"body.{i}.body.0.weight"], state[f"body.{i}.body.0.bias"], padding=1).relu()
        inner = inner + f.conv2d(one, state[f"body.{i}.body.2.weight"], state[f"body.{i}.body.2.bias"], padding=1)
    inner = head + f.conv2d(inner, state["body.16.weight"], state["body.16.bias"], padding=1)
    up = f.pixel_shuffle(f.conv2d(inner, state["tail.0.0.weight"], state["tail.0.0.bias"], padding=1), 2)
    out = f.conv2d(up, state["tail.1.weight"], state["tail.1.bias"], padding=1)
    expected = f.conv2d(out, state["add_mean.weight"], state["add_mean.bias"]) / 255
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)


def test_edsr_loads_strictly():
    state = published_like()
    with pytest.raises(WeightsError, match="does not fit"):
        from_state({k: v for k, v in state.items() if k != "tail.1.bias"}, "here")
    with pytest.raises(WeightsError, match="does not fit"):
        from_state(state | {"extra.weight": torch.zeros(1)}, "here")
    with pytest.raises(WeightsError, match="mean shift"):
        from_state(state | {"sub_mean.bias": torch.zeros(3)}, "here")
    with pytest.raises(WeightsError, match="does not hold an EDSR"):
        from_state({"conv.weight": torch.zeros(1)}, "here")
