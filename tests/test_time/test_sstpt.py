"""SS-TPT: its worked example, and what holds for its weights and its loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from advpt.backbones.backbone import Backbone
from advpt.data.weak import weak_augmentation
from advpt.test_time.base import Draws
from advpt.test_time.prompt_tuning import ViewFeatures
from advpt.test_time.rtpt import mean_entropy
from advpt.test_time.selection import choose, pick
from advpt.test_time.sstpt import (
    SSTPT,
    SSTPTSettings,
    js_divergence,
    leave_one_out,
    sstpt_loss,
    stability,
    suitability,
    view_weights,
)
from advpt.test_time.views import view_pixels
from tests.helpers.gradients import central_differences
from tests.helpers.tiny_clip import DTYPES, Counter, defended_model, images, vectors
from tests.helpers.toy_prompts import toy, toy_features
from tests.test_time.test_prompt_tuning import double

FEW = SSTPTSettings(views=6, rho=0.5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_worked_example(dtype: torch.dtype) -> None:
    example, close = vectors("sstpt", dtype), DTYPES[dtype]
    features, logits = toy_features(dtype)[0], vectors("inputs", dtype)["logits_of_features"]
    settings, weak = example["settings"], example["logits_of_weakly_augmented_views"]
    ratio, temperature = settings["ratio"], settings["temperature"]
    p, q = logits.double().softmax(-1), weak.double().softmax(-1)
    tight = {"rtol": 1e-6 if dtype == torch.float64 else 1e-4, "atol": 0.0}
    divergence = js_divergence(p, q, "reversed").to(dtype)
    torch.testing.assert_close(divergence, example["divergence_js_as_released"], **tight)
    suited, stable = suitability(features), stability(logits, weak, "reversed")
    torch.testing.assert_close(stable, example["stability"], **tight)
    torch.testing.assert_close(1 / suited, example["mean_squared_distance_to_others"], **close)
    torch.testing.assert_close(suited, example["suitability"], **close)
    weights = view_weights(suited, stable, ratio, temperature)
    torch.testing.assert_close(weights, example["weight_all"], **close)
    scores = temperature * weights.log()
    torch.testing.assert_close(scores - scores[5], example["score_all"] - example["score_all"][5], **close)
    kept = choose(logits, 3)
    assert torch.equal(kept, example["selected_3"])
    own = view_weights(suited[kept], stable[kept], ratio, temperature)
    torch.testing.assert_close(own, example["weight_selected"], **close)
    torch.testing.assert_close(
        leave_one_out(logits[kept].softmax(-1), own), example["reference_leave_one_out"], **close
    )
    rel = close["rtol"]
    assert float(mean_entropy(logits[kept])) == pytest.approx(example["entropy_loss"], rel=rel)
    assert float(sstpt_loss(logits[kept], own, 1.0)) == pytest.approx(example["loss"], rel=rel)
    both = sstpt_loss(logits[kept], own, 2.0) - sstpt_loss(logits[kept], own, 1.0)
    assert float(both) == pytest.approx(example["consistency_loss"], rel=rel)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_class_gives_the_worked_examples_answer(dtype: torch.dtype) -> None:
    """At prompt zero the toy's text is that of the example; a weak view is one that gives its logits."""
    example, text = vectors("sstpt", dtype), vectors("inputs", dtype)["text"]
    made = toy(SSTPT, dataclasses.replace(FEW, divergence="reversed"), dtype)
    made.untuned = dataclasses.replace(made.untuned, features=text)
    weak = torch.linalg.lstsq(text.double(), example["logits_of_weakly_augmented_views"].double().T / 10).solution.T
    inputs = ViewFeatures(toy_features(dtype), weak[None].to(dtype))
    result = made.tune_and_answer(inputs, ("a",), steps=0)[0]
    expected = example["answer_weighted_logits_without_tuning"]
    torch.testing.assert_close(result, expected, rtol=1e-3 if dtype == torch.float32 else 1e-6, atol=0)
    untuned, kept = made.logits(inputs.features, text), example["selected_3"][None]
    loss = made.objective(inputs, untuned, kept)(pick(untuned, kept), text)
    assert float(loss) == pytest.approx(example["loss"], rel=1e-3 if dtype == torch.float32 else 1e-6)


def test_both_divergences() -> None:
    g = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 30, 4, generator=g, dtype=torch.float64).softmax(-1)
    m = (p + q) / 2
    usual = 0.5 * (p * (p / m).log()).sum(-1) + 0.5 * (q * (q / m).log()).sum(-1)
    torch.testing.assert_close(js_divergence(p, q), usual, rtol=1e-5, atol=1e-7)
    swapped = 0.5 * (m * (m / p).log()).sum(-1) + 0.5 * (m * (m / q).log()).sum(-1)
    torch.testing.assert_close(js_divergence(p, q, "reversed"), swapped, rtol=1e-5, atol=1e-7)
    ends = torch.eye(2, dtype=torch.float64)
    assert float(js_divergence(ends[0], ends[1])) == pytest.approx(math.log(2), abs=1e-6)
    assert bool(js_divergence(ends[0], ends[1], "reversed").isfinite())


def test_what_holds_for_weights_and_loss() -> None:
    g = torch.Generator().manual_seed(1)
    suited, stable = torch.rand(2, 6, generator=g, dtype=torch.float64)
    only = view_weights(suited, stable, 0.0, 0.25)
    torch.testing.assert_close(only, view_weights(suited.flip(0), stable, 0.0, 0.25))
    assert float(only.sum()) == pytest.approx(1) and int(only.argmax()) == int(stable.argmax())
    logits = torch.randn(6, 4, generator=g, dtype=torch.float64)
    equal = stability(logits, logits)
    assert bool((equal == equal[0]).all()), "an identical augmentation"
    weights = view_weights(suited, equal, 0.4, 0.25)
    torch.testing.assert_close(weights, view_weights(suited, 0 * equal, 0.4, 0.25))
    assert bool(weights.isfinite().all())
    torch.testing.assert_close(sstpt_loss(logits, weights, 0.0), mean_entropy(logits))
    torch.testing.assert_close(sstpt_loss(logits[:1], weights[:1], 1.0), mean_entropy(logits[:1]))
    grown = logits.clone().requires_grad_()
    (result,) = torch.autograd.grad(sstpt_loss(grown, weights, 1.0), grown)
    reference = leave_one_out(logits.softmax(-1), weights)
    (entropy,) = torch.autograd.grad(mean_entropy(grown), grown)
    torch.testing.assert_close(result - entropy, (logits.softmax(-1) - reference) / 6)


def test_images_that_are_all_alike(tiny_clip: Backbone) -> None:
    features = torch.nn.functional.normalize(tiny_clip.require_image()(images(2)), dim=-1)[:, None].expand(-1, 6, -1)
    made = SSTPT(defended_model(tiny_clip), FEW)
    with torch.no_grad():
        result = made.tune_and_answer(ViewFeatures(features), ("a", "b"), steps=0)
    torch.testing.assert_close(result, made.untuned.logits(features[:, 0]), rtol=0, atol=1e-5)


def test_weak_views_are_of_the_same_views_and_counted(tiny_clip: Backbone) -> None:
    made, x, draws = SSTPT(defended_model(tiny_clip), FEW), images(3), Draws(("a", "b", "c"))
    encode = Counter(tiny_clip.require_image())
    with torch.no_grad():
        inputs = made.look(encode, x, draws, False)
        assert encode.images == 3 * made.cost().forward == 36 and inputs.weak is not None
        own = view_pixels(x, draws, FEW)
        expected = encode(weak_augmentation(own, draws.generators("weak")).flatten(0, 1)).unflatten(0, (3, 6))
    torch.testing.assert_close(inputs.weak, torch.nn.functional.normalize(expected, dim=-1), rtol=0, atol=1e-5)
    assert (inputs.weak - inputs.features).abs().max() > 1e-3


@pytest.mark.parametrize("name", ("weighted untuned", "unrolled"))
def test_gradients_against_central_differences(tiny_clip: Backbone, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Weights are constant for the attacker, so that differences keep them, too."""
    monkeypatch.setattr("advpt.prompts.adamw.direction", lambda m, size: m / (m.abs() + 1e-2))
    made = SSTPT(defended_model(double(tiny_clip)), dataclasses.replace(FEW, lr=0.05, consistency=0.0))
    variant = {each.name: each for each in made.variants()}[name]
    qualities, kept_once = made.qualities, list[Any]()

    def first(*args: Any) -> Any:
        kept_once.append(kept_once[0] if kept_once else qualities(*args))
        return kept_once[0]

    monkeypatch.setattr(made, "qualities", first)
    encode, draws = tiny_clip.require_image(), Draws(("k",))
    central_differences(lambda x: variant.logits(encode, x, draws))
