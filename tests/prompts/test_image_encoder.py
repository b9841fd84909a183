"""The image tower with prompts in its layers."""

from __future__ import annotations

import torch
from torch import Tensor

from advpt.backbones.clip import Backbone
from advpt.prompts.image_encoder import visual_digest, with_visual_prompts
from tests.helpers.layouts import make, pixels


def test_without_prompts_the_encoder_is_as_it_was(clip: Backbone) -> None:
    encoder, x, hidden_states = clip.require_image(), pixels(), []
    expected = clip.model.encode_image((x - encoder.mean) / encoder.std)
    assert torch.equal(encoder.features(x), expected)
    assert torch.equal(encoder.features(x, hidden_states=hidden_states), expected)
    assert [tuple(t.shape) for t in hidden_states] == [(3, 1 + 4, 128)] * 3
    assert with_visual_prompts(encoder, None) is encoder and visual_digest(None) is None


def test_prompts_of_a_layer_change_that_layer_and_those_behind(clip: Backbone) -> None:
    encoder, x, learner = clip.require_image(), pixels(), make(clip, "independent")
    visual = learner().visual.detach()
    before: list[Tensor] = []
    feature = encoder.features(x, visual, before)
    assert [tuple(t.shape) for t in before] == [(3, 1 + 4 + 2, 128)] * 3
    for layer in range(3):
        moved, after = visual.clone(), []
        moved[layer] += 1
        assert not torch.equal(encoder.features(x, moved, after), feature)
        for i, (one, other) in enumerate(zip(before, after)):
            assert torch.equal(one, other) == (i < layer)
        assert torch.equal(before[layer][:, :-2], after[layer][:, :-2]), "nothing but the prompts is put in"
    assert torch.equal(before[1][0, -2:], visual[1]) and torch.equal(before[2][0, -2:], visual[2])
