"""Statistics of views, against the worked examples and by their properties."""

from __future__ import annotations

import pytest
import torch

from advpt.test_time import selection
from tests.helpers.tiny_clip import DTYPES, vectors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entropies_and_order_of_the_worked_example(dtype: torch.dtype) -> None:
    inputs, expected = vectors("inputs", dtype), vectors("entropy_selection", dtype)
    logits = inputs["logits8"]
    torch.testing.assert_close(selection.entropy(logits), expected["entropy"], **DTYPES[dtype])
    assert selection.by_certainty(logits).tolist() == expected["order_stable_ascending"].tolist()
    for rho, key in ((0.5, "kept_of_rho_0.5"), (0.1, "kept_of_rho_0.1_sound")):
        kept = selection.choose(logits[None], selection.kept_count(rho, len(logits)))
        assert kept[0].tolist() == expected[key].tolist()
    assert torch.equal(selection.choose(logits + 7, 8), selection.choose(logits, 8)), "a constant changes nothing"


def test_at_least_one_view_is_kept_and_equals_keep_their_order() -> None:
    assert [selection.kept_count(rho, 64) for rho in (0.001, 0.1, 0.3, 1.0)] == [1, 6, 19, 64]
    assert selection.choose(torch.zeros(2, 9, 4), 3).tolist() == [[0, 1, 2]] * 2
    assert sorted(selection.choose(torch.randn(1, 9, 4), 9)[0].tolist()) == list(range(9))
    values = torch.arange(12.0).view(1, 4, 3)
    assert selection.pick(values, torch.tensor([[2, 0]])).tolist() == [[[6, 7, 8], [0, 1, 2]]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neighbours_are_counted_by_index(dtype: torch.dtype) -> None:
    inputs, expected = vectors("inputs", dtype), vectors("rtpt_weights", dtype)
    features, k = selection.unit(inputs["features_raw"])[None], int(expected["k"])
    score = selection.neighbour_score(features, k)[0]
    torch.testing.assert_close(score, expected["score"], **DTYPES[dtype])
    weights = selection.softmax_weights(score, float(expected["temperature"]))
    torch.testing.assert_close(weights, expected["weight"], **DTYPES[dtype])
    whole = (features @ features.mT)[0]
    everyone = selection.neighbour_score(features, 99)[0]
    torch.testing.assert_close(everyone, (whole.sum(-1) - whole.diagonal()) / 5)


def test_equal_views_are_neighbours_and_a_lone_one_has_none() -> None:
    same = torch.tensor([[0.6, 0.8]]).expand(4, 2)[None]
    assert torch.allclose(selection.neighbour_score(same, 2), torch.ones(1, 4))
    lone = selection.neighbour_score(same[:, :1], 20)
    assert lone.tolist() == [[0]] and selection.softmax_weights(lone, 0.01).tolist() == [[1]]
    assert torch.allclose(selection.softmax_weights(torch.rand(3, 5), 1e6), torch.full((3, 5), 0.2), atol=1e-6)


def test_the_mean_probability_of_logits() -> None:
    logits = torch.randn(2, 5, 3, dtype=torch.float64)
    mean = selection.log_mean_probability(logits)
    assert torch.allclose(mean.exp(), logits.softmax(-1).mean(1)) and torch.allclose(
        mean.exp().sum(-1), torch.ones(2).double()
    )
