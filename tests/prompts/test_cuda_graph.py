"""Text features with and without CUDA graphs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from advpt.backbones import packed_text, text_encoder
from advpt.backbones.clip import Backbone
from advpt.prompts.cuda_graph import TextFeatures
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings
from tests.helpers import towers

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


class Copies(TorchDispatchMode):
    """What a CUDA graph cannot capture: operations that take values from the host to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
        if {each.device.type for each in tensors if each.dim()} > {"cpu"}:
            self.seen.append(str(op))
        return out


@pytest.mark.parametrize("packed", (True, False), ids=("packed", "shared"))
@pytest.mark.parametrize("name", ("OpenAI", "CLIPA", "SigLIP"))
def test_nothing_is_copied_from_the_host_after_the_first_pass(name: str, packed: bool, monkeypatch) -> None:
    """The device of no memory, in the place of a card, where copying would end the capture."""
    monkeypatch.setattr(packed_text, "WIDTH", 0 if packed else 10**6)
    if name != "OpenAI":
        pytest.importorskip("open_clip")
    packed_text.plan_rows.cache_clear()
    text_encoder.copied.cache_clear()
    clip = towers.make(name)
    features = TextFeatures(towers.learner(clip).to("meta"), clip.text.to("meta"), graphs=False)
    for copied in (True, False):
        with Copies() as copies:
            features().square().sum().backward()
        assert bool(copies.seen) == copied, copies.seen


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ("tiny", "packed", "SigLIP"))
def test_a_graph_has_the_bits_of_the_plain_step(tiny_clip: Backbone, name: str, monkeypatch) -> None:
    if name == "SigLIP":
        pytest.importorskip("open_clip")
        tiny_clip = towers.make(name)
    monkeypatch.setattr(packed_text, "WIDTH", 0 if name == "packed" else 10**6)
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
