"""View ensembles and TTE."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.errors import ConfigError
from advpt.prompts.classifier import Classifier
from advpt.test_time import TEST_TIME, parse
from advpt.test_time.base import DefendedModel, Draws
from advpt.test_time.ensemble import TTE, draw_offsets, tte_views
from tests.helpers.tiny_clip import DTYPES, central_differences, defended_model, images, toy_model, vectors

IDS = ("a", "b", "c")


def embedding(dtype: torch.dtype = torch.float64) -> tuple[DefendedModel, Tensor]:
    """The worked examples' text as a model, and six views ``[1, 6, 4]`` of one image."""
    inputs = vectors("inputs", dtype)
    return toy_model(inputs["text_raw"], inputs["scale"]), inputs["features_raw"][None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ensembles_of_the_worked_example(dtype: torch.dtype) -> None:
    (model, views), expected = embedding(dtype), vectors("ensembles", dtype)

    def logits(text: str) -> Tensor:
        return parse(text).build(model).combine(views)[0]  # type: ignore[attr-defined]

    close = DTYPES[dtype]
    torch.testing.assert_close(logits("mean").exp(), expected["mean_probability_all"], **close)
    torch.testing.assert_close(logits("conf/rho=0.5").exp(), expected["mean_probability_kept"], **close)
    torch.testing.assert_close(logits("logits"), expected["mean_logits_all"], **close)
    torch.testing.assert_close(logits("logits").softmax(-1), expected["softmax_of_mean_logits"], **close)
    torch.testing.assert_close(logits("feature"), expected["logits_of_mean_feature_normalised"], **close)
    torch.testing.assert_close(logits("conf/rho=1"), logits("mean"))


def test_mean_logits_are_those_of_the_mean_feature_at_another_temperature() -> None:
    model, views = embedding()
    several = torch.cat([views, views.flip(-1), views.roll(1, -1)])
    logits, feature = (parse(name).build(model).combine(several) for name in ("logits", "feature"))  # type: ignore[attr-defined]
    mean = torch.nn.functional.normalize(several, dim=-1).mean(1)
    torch.testing.assert_close(logits, model.classifier.scale * mean @ model.classifier.features.T)
    assert torch.equal(logits.argmax(1), feature.argmax(1))
    torch.testing.assert_close(feature * mean.norm(dim=-1, keepdim=True), logits)


@pytest.mark.parametrize("wrong", ("conf/rho=0", "conf/rho=1.5", "mean/views=0", "tte/crops=-1", "tte/pad=2"))
def test_settings_out_of_range_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse(wrong)


# --- TTE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tte_of_the_worked_example(dtype: torch.dtype) -> None:
    toy, expected = vectors("toy_encoder", dtype), vectors("tte", dtype)
    pad = int(expected["pad"])
    views = tte_views(toy["pixels"], (pad, pad), [(y, x) for y, x in expected["offsets"].tolist()])
    logits = toy_logits(views.flatten(0, 1), toy, dtype).unflatten(0, views.shape[:2])
    torch.testing.assert_close(logits, expected["logits_of_views"].transpose(0, 1), **DTYPES[dtype])
    torch.testing.assert_close(logits.mean(1), expected["mean_logits"], **DTYPES[dtype])


def toy_logits(pixels: Tensor, toy: dict[str, Any], dtype: torch.dtype) -> Tensor:
    flat = pixels.flatten(1)
    embedded = flat @ toy["A"].T + (flat @ toy["B"].T).square()
    inputs = vectors("inputs", dtype)
    return toy_model(inputs["text_raw"], inputs["scale"]).classifier.logits(embedded)


def test_tte_crops_are_different_ones_and_may_reach_every_edge() -> None:
    places = [draw_offsets(4, (2, 3), seed) for seed in range(60)]
    assert all(len(set(four)) == 4 for four in places) and draw_offsets(4, (2, 3), 0) == places[0]
    assert {y for four in places for y, _ in four} == set(range(5)), "0 to twice the padding, both included"
    assert {x for four in places for _, x in four} == set(range(7))
    assert sorted(draw_offsets(25, (2, 2), 0)) == [(y, x) for y in range(5) for x in range(5)]


def test_tte_without_crops_or_padding_and_of_a_symmetric_image(tiny_clip: Backbone) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(3)
    both = torch.stack([model.classifier.logits(encode(each)) for each in (x, x.flip(-1))]).mean(0)
    for text in ("tte/crops=0", "tte/pad=0"):
        torch.testing.assert_close(parse(text).build(model)(x, IDS, False, encode), both, rtol=1e-4, atol=1e-4)
    symmetric = (x + x.flip(-1)) / 2
    views = tte_views(symmetric, (4, 4), [(1, 4), (7, 4)])
    assert torch.equal(views[:, 0], views[:, 1]) and torch.equal(views[:, 2:4], views[:, 4:6].flip(-1))


def test_tte_is_deterministic_and_its_attacker_sees_all_of_it(tiny_clip: Backbone) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(3)
    defense = parse("tte").build(model, seed=5)
    logits = defense(x, IDS, False, encode)
    assert not defense.draws_noise and torch.equal(parse("tte").build(model)(x, ("q", "r", "s"), True, encode), logits)
    assert not torch.equal(parse("tte/offsets=1").build(model)(x, IDS, False, encode), logits)
    (variant,) = defense.variants()
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(variant.logits(encode, x, Draws.of_attacker(generator, 3)), logits, rtol=1e-4, atol=1e-4)
    assert defense.cost().forward == 10 == TTE(model, TTE.profiles["sound"]).views(x).shape[1]


@pytest.mark.parametrize("text", ("mean", "conf/rho=0.3", "logits", "feature", "tte"))
def test_gradients_are_those_of_central_differences(text: str) -> None:
    for error in central_differences(text):
        assert error < 1e-4


def test_classifier_of_text_has_unit_features() -> None:
    model, _ = embedding()
    assert isinstance(model.classifier, Classifier) and set(TEST_TIME) >= {"mean", "conf", "logits", "feature", "tte"}
    torch.testing.assert_close(model.classifier.features.norm(dim=-1), torch.ones(3, dtype=torch.float64))
