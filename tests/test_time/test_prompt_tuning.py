"""Prompt tuning at test time: worked examples, what holds for every method of it, and what attackers differentiate."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt import losses
from advpt.backbones.backbone import Backbone
from advpt.errors import ConfigError, DefenseError
from advpt.prompts import adamw
from advpt.prompts.conditional import ConditionalLearner
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings
from advpt.test_time import TEST_TIME, parse
from advpt.test_time.base import DefendedModel, Draws
from advpt.test_time.prompt_tuning import (
    CTPT,
    PROMPTS_AT_ONCE,
    TPT,
    CTPTSettings,
    PromptTuning,
    TuningSettings,
    ViewFeatures,
    ctpt_loss,
    dispersion,
)
from advpt.test_time.rtpt import RTPT, RTPTSettings, mean_entropy
from advpt.test_time.selection import choose, unit
from tests.helpers.gradients import central_differences
from tests.helpers.tiny_clip import DTYPES, NAMES, defended_model, images, vectors
from tests.helpers.toy_prompts import toy, toy_features

METHODS = ("tpt", "ctpt", "rtpt", "sstpt")
IDS = ("a", "b", "c", "d")
TOY = {
    "tpt": (TPT, TuningSettings(rho=0.5, lr=0.1)),
    "ctpt": (CTPT, CTPTSettings(rho=0.5, lr=0.1, dispersion=2.0)),
    "rtpt": (RTPT, RTPTSettings(rho=0.5, lr=0.1, neighbours=2)),
}


def build(model: DefendedModel, name: str, **options: Any) -> PromptTuning:
    """With few views, and (C-TPT) a weight under which the views matter, too."""
    few = {"views": 10, "rho": 0.3} | ({"dispersion": 1.0} if name == "ctpt" else {})
    settings = dataclasses.replace(TEST_TIME.get(name).profiles["sound"], **few | options)
    made = TEST_TIME.get(name)(model, settings)
    assert isinstance(made, PromptTuning)
    return made


def double(clip: Backbone) -> Backbone:
    """The same CLIP in float64: OpenAI's LayerNorm computes in float32 whatever it gets."""
    for module in clip.model.double().modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.__class__ = torch.nn.LayerNorm
    clip.require_image().double()
    return clip


def learner(clip: Backbone, **changed: Any) -> PromptLearner:
    settings = dataclasses.replace(ContextSettings(2, False, "", "end", "fp32"), **changed)
    return PromptLearner(clip.text, NAMES, settings, torch.Generator().manual_seed(0), clip.card)


# --- worked examples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses_and_their_gradients(dtype: torch.dtype) -> None:
    example, close = vectors("entropy_losses", dtype), DTYPES[dtype]
    kept = vectors("inputs", dtype)["logits8"][example["views"]].requires_grad_()
    for loss, value, gradient in (
        (losses.averaged_entropy, "tpt_entropy_of_mean", "tpt_gradient_at_kept_logits"),
        (mean_entropy, "rtpt_mean_of_entropies", "rtpt_gradient_at_kept_logits"),
    ):
        result = loss(kept)
        assert result.item() == pytest.approx(example[value], rel=close["rtol"])
        torch.testing.assert_close(torch.autograd.grad(result, kept)[0], example[gradient], **close)
    p, mean = kept.softmax(-1), kept.softmax(-1).mean(0)
    divergence = (p * (p.log() - mean.log())).sum(-1).mean()
    assert divergence.item() == pytest.approx(example["mean_kl_to_mean"], rel=close["rtol"])
    assert losses.averaged_entropy(kept).item() == pytest.approx(
        (mean_entropy(kept) + divergence).item(), rel=close["rtol"]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dispersion(dtype: torch.dtype) -> None:
    example, inputs, rel = vectors("ctpt_dispersion", dtype), vectors("inputs", dtype), DTYPES[dtype]["rtol"]
    text = unit(inputs["text_raw"])
    torch.testing.assert_close(text.mean(0), example["mean_text"], **DTYPES[dtype])
    assert float(dispersion(text)) == pytest.approx(example["dispersion"], rel=rel)
    kept = inputs["logits8"][vectors("entropy_losses", dtype)["views"]]
    assert float(ctpt_loss(kept, text, 50.0)) == pytest.approx(example["loss_lambda_50"], rel=rel)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype))[0]
    assert float(dispersion(text @ turn)) == pytest.approx(float(dispersion(text)), rel=rel)
    assert float(dispersion(text[:1].expand(3, -1))) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TOY)
def test_a_whole_tuning_of_the_worked_example(name: str, dtype: torch.dtype) -> None:
    example, close = vectors("toy_prompt_tuning", dtype)[name], DTYPES[dtype]
    made, features = toy(*TOY[name], dtype), toy_features(dtype)
    inputs, untuned = ViewFeatures(features), made.logits(features, made.untuned.features)
    torch.testing.assert_close(untuned[0], example["logits_before"], **close)
    rows = choose(untuned, 3)
    assert torch.equal(rows[0], example["kept"])
    context = made.context[None].clone().requires_grad_()
    text = made.text_features(context)
    loss = made.objective(inputs, untuned, rows)(made.logits(features[:, rows[0]], text), text)
    assert loss.item() == pytest.approx(example["loss"], rel=close["rtol"])
    (gradient,) = torch.autograd.grad(loss.sum(), context)
    torch.testing.assert_close(gradient[0], example["gradient"], **close)
    after = made.logits(features, made.text_features(example["prompt_after"][None]))[0]
    torch.testing.assert_close(after, example["logits_after"], **close)
    with torch.no_grad():
        result = made.tune_and_answer(inputs, IDS[:1])[0]
    if name != "rtpt":
        torch.testing.assert_close(result, example["answer_view_0"], **close)
        return
    torch.testing.assert_close(result, example["answer_weighted_logits_k2"], **close)
    other = toy(RTPT, dataclasses.replace(made.settings, answer="probabilities"), dtype)
    with torch.no_grad():
        result = other.tune_and_answer(inputs, IDS[:1])[0].exp()
    torch.testing.assert_close(result, example["answer_weighted_probabilities_k2"], **close)


# --- what holds for every method ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_one_view_and_no_step_is_the_plain_classifier(tiny_clip: Backbone, name: str) -> None:
    model = defended_model(double(tiny_clip))
    encode, x = tiny_clip.require_image(), images(2).double()
    plain = model.classifier.logits(encode(x))
    for options in ({"views": 1, "steps": 0}, {"views": 1, "lr": 0.0}):
        torch.testing.assert_close(build(model, name, **options)(x, IDS[:2], True, encode), plain, rtol=0, atol=1e-6)
    tuned = build(model, name)(x, IDS[:2], True, encode)
    assert tuned.dtype == torch.float64 and (tuned - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_an_image_depends_on_itself_its_id_and_the_seed(tiny_clip: Backbone, name: str) -> None:
    made, encode, x = build(defended_model(tiny_clip), name), tiny_clip.require_image(), images(4)
    whole = made(x, IDS, False, encode)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(made(x[order], [IDS[i] for i in order], False, encode), whole[order], rtol=0, atol=1e-4)
    torch.testing.assert_close(made(x[1:2], IDS[1:2], False, encode), whole[1:2], rtol=0, atol=1e-4)
    assert torch.equal(made(x, IDS, False, encode), whole), "nothing is kept between calls"
    other = TEST_TIME.get(name)(made.model, made.settings, seed=1)
    for changed in (other(x, IDS, False, encode), made(x, tuple("wxyz"), False, encode)):
        assert (changed - whole).abs().max() > 1e-3
    assert made.parameters() != other.parameters() and made.variants()[0].parameters == other.variants()[0].parameters


@pytest.mark.parametrize("name", METHODS)
def test_a_call_leaves_everything_as_it_was(tiny_clip: Backbone, name: str) -> None:
    own = learner(tiny_clip)
    model = dataclasses.replace(defended_model(tiny_clip), learner=own)
    values = {key: value.clone() for key, value in own.state_dict().items()}
    flags, state = [p.requires_grad for p in tiny_clip.model.parameters()], torch.get_rng_state()
    build(model, name, start="learned")(images(2), IDS[:2], False, tiny_clip.require_image())
    assert [p.requires_grad for p in tiny_clip.model.parameters()] == flags and own.ctx.requires_grad
    assert all(p.grad is None for p in (*tiny_clip.model.parameters(), *own.parameters()))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, values[key]) for key, value in own.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_views(tiny_clip: Backbone, name: str) -> None:
    made, x = build(defended_model(tiny_clip), name), images(2)
    with torch.no_grad():
        inputs = made.look(tiny_clip.require_image(), x, Draws(IDS[:2]), False)

        def answer(order: list[int]) -> Tensor:
            weak = inputs.weak[:, order] if inputs.weak is not None else None
            return made.tune_and_answer(ViewFeatures(inputs.features[:, order], weak), IDS[:2])

        first, others = answer(list(range(10))), answer([0, 5, 3, 9, 1, 2, 4, 8, 7, 6])
        swapped = answer([4, 1, 2, 3, 0, 5, 6, 7, 8, 9])
    torch.testing.assert_close(others, first, rtol=0, atol=1e-4)
    matters = name in ("tpt", "ctpt")
    assert ((swapped - first).abs().max() > 1e-3) == matters


@pytest.mark.parametrize("name", METHODS)
def test_many_images_are_tuned_together(tiny_clip: Backbone, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made, encode, x = build(defended_model(tiny_clip), name), tiny_clip.require_image(), images(4)
    together = made(x, IDS, False, encode)
    monkeypatch.setitem(PROMPTS_AT_ONCE, "cpu", 1)
    torch.testing.assert_close(made(x, IDS, False, encode), together, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_both_precisions_agree(tiny_clip: Backbone, name: str) -> None:
    x = images(2)
    single = build(defended_model(tiny_clip), name)(x, IDS[:2], False, tiny_clip.require_image())
    exact = build(defended_model(double(tiny_clip)), name)(x.double(), IDS[:2], False, tiny_clip.require_image())
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-3 if name == "sstpt" else 1e-4)


def test_an_image_without_a_finite_gradient_keeps_the_start(
    tiny_clip: Backbone, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, encode, x = build(defended_model(tiny_clip), "tpt"), tiny_clip.require_image(), images(3)
    good = made(x, IDS[:3], False, encode)
    factor = torch.tensor([1.0, float("nan"), 1.0])
    monkeypatch.setattr(made, "objective", lambda *_: lambda logits, text: factor * losses.averaged_entropy(logits))
    result = made(x, IDS[:3], False, encode)
    assert torch.equal(result[[0, 2]], good[[0, 2]]) and "1 image(s) was not finite (['b'])" in caplog.text
    torch.testing.assert_close(result[1], made.untuned.logits(encode(x))[1], rtol=0, atol=1e-4)


# --- properties of TPT and C-TPT ----------------------------------------------------------------------------------


def test_tpts_loss_is_not_below_rtpts() -> None:
    logits = 3 * torch.randn(50, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert bool((losses.averaged_entropy(logits) > mean_entropy(logits)).all())
    same = logits[:, :1].expand(-1, 6, -1)
    torch.testing.assert_close(losses.averaged_entropy(same), mean_entropy(same), rtol=1e-9, atol=1e-12)


def test_the_first_step_has_one_size_and_lowers_the_loss(tiny_clip: Backbone) -> None:
    made = build(defended_model(double(tiny_clip)), "tpt", steps=1)
    with torch.no_grad():
        features = made.look(tiny_clip.require_image(), images(2).double(), Draws(IDS[:2]), False).features

    def loss(values: dict[str, Tensor]) -> Tensor:
        return losses.averaged_entropy(made.logits(features, made.text_features(values["context"])))

    start = {"context": made.context.double().expand(2, -1, -1).clone().requires_grad_()}
    before = loss(start)
    (gradient,) = torch.autograd.grad(before.sum(), start["context"])
    stepped = adamw.descend(start, loss, 1, 5e-3)[0]["context"]
    moved = stepped - start["context"].detach() * (1 - 5e-3 * adamw.DECAY)
    large = gradient.abs() > 1e-4
    assert large.any() and bool(((moved[large].abs() - 5e-3).abs() < 1e-3 * 5e-3).all())
    with torch.no_grad():
        assert bool((loss({"context": start["context"] - 1e-2 * gradient}) < before).all())


def test_ctpt_without_its_term_is_tpt(tiny_clip: Backbone) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(2)
    tpt = build(model, "tpt")(x, IDS[:2], False, encode)
    without = build(model, "ctpt", dispersion=0.0)(x, IDS[:2], False, encode)
    torch.testing.assert_close(without, tpt, rtol=0, atol=1e-5)
    assert (build(model, "ctpt")(x, IDS[:2], False, encode) - tpt).abs().max() > 1e-3


# --- where tuning starts ------------------------------------------------------------------------------------------


MIXED = {"layout": "independent", "experts": 3, "depth_text": 2, "depth_vision": 2}


@pytest.mark.parametrize("changed", ({}, {"csc": True}, {"position": "middle"}, {"position": "front"}, MIXED), ids=str)
def test_it_starts_from_the_learned_prompt(tiny_clip: Backbone, changed: dict[str, Any]) -> None:
    own = learner(tiny_clip, **changed)
    hand = defended_model(tiny_clip)
    plain = own.classifier(tiny_clip.text, tiny_clip.logit_scale, hand.classifier.features)
    model, encode, x = dataclasses.replace(hand, classifier=plain, learner=own), tiny_clip.require_image(), images(2)
    still, tuned = (build(model, "tpt", start="learned", steps=steps)(x, IDS[:2], False, encode) for steps in (0, 1))
    torch.testing.assert_close(still, plain.logits(encode(x)), rtol=0, atol=1e-4)
    assert (tuned - still).abs().max() > 1e-3
    start = build(model, "tpt", steps=0)
    torch.testing.assert_close(start(x, IDS[:2], False, encode), hand.classifier.logits(encode(x)), rtol=0, atol=1e-4)
    learned = build(model, "tpt", start="learned", steps=0)
    assert start.parameters()["start"] != learned.parameters()["start"]
    made = build(model, "tpt", start="learned")
    for each in own.parameters():
        each.data += 1
    assert torch.equal(made(x, IDS[:2], False, encode), tuned), "what the run tunes later is another prompt"
    assert learned.variants()[0].parameters["text"] == plain.digest, "the attack on the plain prompt is that of others"


def test_runs_without_a_text_context_are_refused(tiny_clip: Backbone) -> None:
    hand, context = defended_model(tiny_clip), ContextSettings(2, False, "", "end", "fp32")
    meta = ConditionalLearner(tiny_clip.text, NAMES, context, None, tiny_clip.card)
    for own, message in (
        (None, "has none; use start=hand"),
        (learner(tiny_clip, layout="visual"), "no text context"),
        (meta, "differs from image to image"),
    ):
        with pytest.raises(DefenseError, match=message):
            build(dataclasses.replace(hand, learner=own), "tpt", start="learned")


@pytest.mark.parametrize(
    ("text", "message"),
    (
        ("tpt/rho=0.0", "rho is 0.0"),
        ("ctpt/start=file", "expected hand or learned"),
        ("rtpt/steps=-1", "steps is -1"),
        ("rtpt/temperature=0.0", "temperature 0.0"),
        ("rtpt/answer=votes", "expected logits or probabilities"),
        ("rtpt:released/views=16", "more views than neighbours; got 16 and 20"),
        ("sstpt/ratio=1.5", "ratio is 1.5"),
        ("sstpt/divergence=kl", "expected usual or reversed"),
        ("sstpt/consistency=-1.0", "consistency -1.0"),
    ),
)
def test_mistakes_in_settings(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


# --- attackers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_what_an_attacker_differentiates(tiny_clip: Backbone, name: str) -> None:
    made, encode, x = build(defended_model(tiny_clip), name), tiny_clip.require_image(), images(2)
    variants = {each.name: each for each in made.variants()}
    middle = "plain" if name in ("tpt", "ctpt") else "weighted untuned"
    assert set(variants) == {"unrolled", middle, "mean of views"} and variants["unrolled"].second_derivative
    draws = Draws.of_attacker(torch.Generator().manual_seed(0), 2)
    for each in variants.values():
        pixels = x.clone().requires_grad_()
        logits = each(encode, pixels, draws)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 1]), reduction="sum"), pixels)
        assert bool(gradient.isfinite().all()) and float(gradient.flatten(1).norm(dim=1).min()) > 1e-4
        with torch.no_grad():
            torch.testing.assert_close(each.logits(encode, x, draws), logits.detach(), rtol=0, atol=1e-3)
            part = each.logits(encode, x[1:], Draws(draws.keys[1:], draws.seed))
        torch.testing.assert_close(part, logits[1:].detach(), rtol=0, atol=1e-3)
    with torch.no_grad():
        small = build(made.model, name, views=9)
        torch.testing.assert_close(
            variants["unrolled"].logits(encode, x, draws), small.classify(encode, x, draws, False), rtol=0, atol=1e-4
        )
    assert {each.name for each in build(made.model, name, steps=0).variants()} == {middle, "mean of views"}
    keys = [str(each.parameters) for each in variants.values()]
    assert len(set(keys)) == 3 and not any("seed" in key for key in keys)


@pytest.mark.parametrize(
    ("name", "variant"),
    (("tpt", "unrolled"), ("rtpt", "unrolled"), ("rtpt", "weighted untuned"), ("tpt", "mean of views")),
)
def test_gradients_against_central_differences(
    tiny_clip: Backbone, monkeypatch: pytest.MonkeyPatch, name: str, variant: str
) -> None:
    """In float64 along random directions, with the step as a smooth sign forward and backward."""
    monkeypatch.setattr(adamw, "direction", lambda m, size: m / (m.abs() + 1e-2))
    more = {"neighbours": 2, "temperature": 0.1} if name == "rtpt" else {}
    made = build(defended_model(double(tiny_clip)), name, views=5, rho=0.6, lr=0.05, **more)
    chosen = {each.name: each for each in made.variants()}[variant]
    central_differences(lambda x: chosen.logits(tiny_clip.require_image(), x, Draws(("k",))))
