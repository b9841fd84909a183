"""Text features with and without CUDA graphs."""

from __future__ import annotations

import logging

import pytest
import torch

from advpt.backbones.clip import Backbone
from advpt.prompts.cuda_graph import TextFeatures
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings

NAMES = ["ant", "brown bear", "cat"]


def make(clip: Backbone, device: str = "cpu", graphs: bool = True) -> TextFeatures:
    encoder = clip.text.to(device)
    settings = ContextSettings(4, False, "", "end", "fp32")
    learner = PromptLearner(encoder, NAMES, settings, torch.Generator().manual_seed(0)).to(device)
    return TextFeatures(learner, encoder, graphs)


def test_on_a_cpu_graphs_change_nothing(tiny_clip: Backbone) -> None:
    with_graphs, without = make(tiny_clip), make(tiny_clip, graphs=False)
    a, b = with_graphs(), without()
    a.sum().backward()
    b.sum().backward()
    assert torch.equal(a, b)
    assert torch.equal(with_graphs.learner.ctx.grad, without.learner.ctx.grad)


def test_values_take_the_place_of_the_parameters(tiny_clip: Backbone) -> None:
    features = make(tiny_clip)
    ctx = features.learner.ctx.detach()
    both = features({"ctx": torch.stack([ctx, ctx.flip(-1)])})
    assert torch.allclose(both[0], features(), atol=1e-6)
    assert not torch.allclose(both[1], features(), atol=1e-3)


def test_where_a_capture_fails_tuning_goes_on_and_says_so(tiny_clip: Backbone, monkeypatch, caplog) -> None:
    features = make(tiny_clip)
    expected = features()
    monkeypatch.setattr(TextFeatures, "can_capture", lambda self, tensors: self.graphs)

    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(features(), expected)
        assert torch.equal(features(), expected)
    assert [record.message for record in caplog.records] == [
        "tuning goes on without CUDA graphs: operation not permitted when stream is capturing"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_has_the_bits_of_the_plain_step(tiny_clip: Backbone) -> None:
    graphed, plain = make(tiny_clip, "cuda"), make(tiny_clip, "cuda", graphs=False)
    for _ in range(3):
        for features in (graphed, plain):
            features.learner.zero_grad()
            features().square().sum().backward()
        assert graphed.graphs
        assert torch.equal(graphed.learner.ctx.grad, plain.learner.ctx.grad)
        with torch.no_grad():
            graphed.learner.ctx += 0.1
            plain.learner.ctx += 0.1
