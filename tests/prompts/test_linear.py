"""A linear head on embeddings."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Linear

from advpt.prompts.linear import LinearClassifier


@pytest.fixture
def layer() -> Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Linear(5, 3).requires_grad_(False)


def test_it_is_a_linear_layer_on_embeddings_as_they_are(layer: Linear) -> None:
    embeddings = 7 * torch.randn(4, 5, generator=torch.Generator().manual_seed(1))  # of no particular length
    head = LinearClassifier(layer.weight, 100.0, layer.bias)
    torch.testing.assert_close(head.logits(embeddings), layer(embeddings))
    assert torch.equal(head.probabilities(embeddings, -10.0), head.logits(embeddings).softmax(-1)), (
        "SigLIP's bias is not its"
    )


def test_its_digest_is_of_weights_and_bias(layer: Linear) -> None:
    head = LinearClassifier(layer.weight, 1.0, layer.bias)
    others = (LinearClassifier(layer.weight + 1, 1.0, layer.bias), LinearClassifier(layer.weight, 1.0, layer.bias + 1))
    assert len({head.digest, *(other.digest for other in others)}) == 3
    assert LinearClassifier(layer.weight.clone(), 1.0, layer.bias.clone()).digest == head.digest
