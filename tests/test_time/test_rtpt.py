"""R-TPT's weights and answers: worked examples, and what holds for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from advpt.backbones.backbone import Backbone
from advpt.test_time import parse
from advpt.test_time.base import Draws
from advpt.test_time.prompt_tuning import ViewFeatures
from advpt.test_time.rtpt import RTPT, RTPTSettings, released_score, weighted_answer
from advpt.test_time.selection import neighbour_score, softmax_weights, unit
from tests.helpers.tiny_clip import DTYPES, defended_model, images, vectors
from tests.helpers.toy_prompts import toy, toy_features

FEW = RTPTSettings(views=10, rho=0.3, neighbours=4)


def rtpt(clip: Backbone, **options: Any) -> RTPT:
    return RTPT(defended_model(clip), dataclasses.replace(FEW, **options))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_and_answers_of_the_worked_example(dtype: torch.dtype) -> None:
    example, close = vectors("rtpt_weights", dtype), DTYPES[dtype]
    features, logits = toy_features(dtype)[0], vectors("inputs", dtype)["logits_of_features"]
    for k, expected in ((2, example), (5, example["k_5"])):
        score = neighbour_score(features, k)
        torch.testing.assert_close(score, expected["score"], **close)
        weights = toy(RTPT, RTPTSettings(neighbours=k), dtype).weights(features)
        torch.testing.assert_close(weights, expected["weight"], **close)
    weights = softmax_weights(neighbour_score(features, 2), example["temperature"])
    torch.testing.assert_close(weighted_answer(logits, weights), example["weighted_logits"], **close)
    result = weighted_answer(logits, weights, "probabilities").exp()
    torch.testing.assert_close(result, example["weighted_probabilities"], **close)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_views_under_both_rules(dtype: torch.dtype) -> None:
    example, close = vectors("rtpt_weights", dtype)["identical_views"], DTYPES[dtype]
    features, k, temperature = example["features"], example["k"], example["temperature"]
    for others, score in (("index", neighbour_score), ("below-1", released_score)):
        expected = example["sound" if others == "index" else "released"]
        torch.testing.assert_close(score(features, k), expected["score"], **close)
        made = toy(RTPT, RTPTSettings(neighbours=k, temperature=temperature, others=others), dtype)
        torch.testing.assert_close(made.weights(features), expected["weight"], **close)
    few = torch.stack([features[0], features[1], features[3]])
    torch.testing.assert_close(released_score(few, 2), torch.full((3,), 0.5, dtype=dtype))
    all_equal = features[:1].expand(4, -1)
    assert torch.equal(released_score(all_equal, 2), torch.zeros(4, dtype=dtype))


def test_all_others_as_neighbours_and_the_ends_of_the_temperature() -> None:
    features = unit(torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    score = neighbour_score(features, 6)
    torch.testing.assert_close(score, ((features @ features.T).sum(1) - 1) / 6)
    torch.testing.assert_close(neighbour_score(features, 20), score)
    assert float(softmax_weights(score, 0.01).sum()) == pytest.approx(1)
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hot, cold = (weighted_answer(logits, softmax_weights(score, t)) for t in (1e6, 1e-6))
    torch.testing.assert_close(hot, logits.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(cold, logits[score.argmax()], rtol=0, atol=1e-9)


def test_a_mean_of_predictions_has_a_gradient_where_weights_vanish() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    weights = torch.tensor([1.0, 0.0], requires_grad=True)
    result = weighted_answer(logits, weights, "probabilities")
    torch.testing.assert_close(result, logits[0].log_softmax(-1))
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(result.sum(), (logits, weights)))


def test_equal_views_are_the_plain_image(tiny_clip: Backbone) -> None:
    features = unit(tiny_clip.require_image()(images(2)))[:, None].expand(-1, 6, -1)
    plain = defended_model(tiny_clip).classifier.logits(features[:, 0])
    for others in ("index", "below-1"):
        with torch.no_grad():
            result = rtpt(tiny_clip, steps=0, others=others).tune_and_answer(ViewFeatures(features), ("a", "b"))
        torch.testing.assert_close(result, plain, rtol=0, atol=1e-5)


def test_weights_do_not_depend_on_the_text(tiny_clip: Backbone) -> None:
    one = rtpt(tiny_clip)
    other = RTPT(defended_model(tiny_clip, ("dog", "tree", "sky")), FEW)
    with torch.no_grad():
        inputs = one.look(tiny_clip.require_image(), images(2), Draws(("a", "b")), False)
    assert torch.equal(one.weights(inputs.features), other.weights(inputs.features))


def test_rounding_decides_in_the_released_rule() -> None:
    """In float32 some views count themselves as a neighbour, and gain weight."""
    features = unit(torch.randn(64, 512, generator=torch.Generator().manual_seed(0)))
    own = (features @ features.T).diagonal() < 1
    assert 0 < int(own.sum()) < 64
    sound, released = neighbour_score(features, 20), released_score(features, 20)
    torch.testing.assert_close(released[~own], sound[~own])
    assert bool((released[own] > sound[own] + 0.04).all())


def test_what_is_recorded(tiny_clip: Backbone) -> None:
    sound, released = (parse(text).build(defended_model(tiny_clip)).parameters() for text in ("rtpt", "rtpt:released"))
    assert "cosines" not in sound and released["cosines"] == "float32 on cpu"
    assert released["settings"] == sound["settings"] | {"source": "file", "eight_bits": "floor", "others": "below-1"}
