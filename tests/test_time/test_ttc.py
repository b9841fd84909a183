"""TTC: the worked example, and its properties at the ends of its settings."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.bank.defended_input import CachedForward
from advpt.test_time import parse
from advpt.test_time.base import Draws
from advpt.test_time.counter import StepRule, smooth_sign
from advpt.test_time.ttc import TTC, TTCSettings, counterattack, iterate_weights, weighted
from tests.helpers.small_encoders import GivenDraws, inner_pixels, slopes, toy
from tests.helpers.tiny_clip import DTYPES, defended_model, images, vectors

DRAWS = Draws(("a", "b"))


def settings(**changes: float | str) -> TTCSettings:
    """Those of the worked example."""
    about = vectors("ttc")
    values = {"eps": 255 * about["eps"], "step": 255 * about["step"], "steps": about["steps"], "tau": about["tau"]}
    return dataclasses.replace(TTCSettings(beta=about["beta"], **values), **changes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_intermediate_of_the_worked_example(dtype: torch.dtype) -> None:
    """One image on each side of the threshold."""
    (model, encode, pixels), about = toy(dtype), vectors("ttc", dtype)
    torch.testing.assert_close(encode(pixels), vectors("toy_encoder", dtype)["embedding"], **DTYPES[dtype])
    defense, draws = TTC(model, settings()), GivenDraws(about["start_noise_unclipped"])
    attack = defense.counterattack(encode, pixels, draws)
    close = lambda one, key: torch.testing.assert_close(one, about[key], **DTYPES[dtype])  # noqa: E731
    close(attack.ratio, "ratio")
    close(attack.deltas.transpose(0, 1), "deltas_after_0_1_2_steps")
    close(iterate_weights(2.0, attack.deltas), "weights_for_beta_2_and_2_steps")
    close(defense.delta(encode, pixels, draws), "delta")
    x = pixels.clone().requires_grad_()
    logits = defense.variants()[0].logits(encode, x, draws)
    close(logits.detach(), "logits")
    (gradient,) = torch.autograd.grad(logits[0, 0] + logits[1, 1], x)
    close(gradient, "gradient_of_logit_0_of_image_0_and_logit_1_of_image_1_delta_constant")


def test_equality_with_the_threshold_counts_as_not_below() -> None:
    model, encode, pixels = toy()
    draws = GivenDraws(vectors("ttc")["start_noise_unclipped"])
    attack = TTC(model, settings()).counterattack(encode, pixels, draws)
    for tau, stable in ((float(attack.ratio[1]), False), (float(attack.ratio[1]) * (1 + 1e-12), True)):
        delta = TTC(model, settings(tau=tau)).delta(encode, pixels, draws)[1]
        assert torch.equal(delta, attack.deltas[0][1]) != stable


def test_thresholds_and_weights_at_their_ends() -> None:
    model, encode, pixels = toy()
    attack = TTC(model, settings()).counterattack(encode, pixels, DRAWS)

    def delta(**changes: float | str) -> Tensor:
        return TTC(model, settings(**changes)).delta(encode, pixels, DRAWS)

    close = torch.testing.assert_close
    close(delta(tau=0.0), attack.deltas[0])
    assert torch.equal(delta(tau=0.0, otherwise="zero"), torch.zeros_like(pixels))
    close(delta(tau=float("inf")), weighted(2.0, attack.deltas))
    close(delta(tau=1e9, beta=0.0), attack.deltas.mean(0))
    close(delta(tau=1e9, beta=1e3), attack.deltas[-1])
    for tau in (0.0, 1e9):
        close(delta(steps=0, tau=tau), attack.deltas[0])


def test_without_steps_it_is_random_noise() -> None:
    model, encode, pixels = toy()
    for text in ("ttc/steps=0", "ttc/tau=0"):
        defense = parse(text).build(model)
        assert isinstance(defense, TTC)
        noise = defense.noise(pixels, DRAWS)
        assert 0.5 < float(noise.abs().max()) * 255 / 4 <= 1
        expected = model.classifier.logits(encode((pixels + noise).clamp(0, 1)))
        torch.testing.assert_close(defense(pixels, DRAWS.keys, True, encode), expected)


def test_the_embedding_moves_further_with_every_small_step() -> None:
    _, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    noise = 1e-3 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    deltas = counterattack(encode, pixels, noise, StepRule(10, 1e-3, torch.sign, 1.0)).deltas
    moved = torch.stack([(encode(pixels + d) - encode(pixels)).norm(dim=-1) for d in deltas])
    assert bool((moved.diff(dim=0) > 0).all())


def test_the_gate_has_a_gradient_of_its_own() -> None:
    """Against central differences with both deltas constant; at the threshold both branches count half."""
    model, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    defense = TTC(model, settings())
    attack = defense.counterattack(encode, pixels, DRAWS)
    defense = TTC(model, settings(tau=float(attack.ratio[0])))
    counter = defense.always_weighted(encode, pixels, DRAWS)
    noisy = defense.only_noise(encode, pixels, DRAWS)
    mixed = defense.through_gate(encode, pixels, DRAWS)
    torch.testing.assert_close(mixed[0], (counter[0] + noisy[0]) / 2)
    share = 1 - attack.ratio[1] / (2 * attack.ratio[0])
    torch.testing.assert_close(mixed[1], share * counter[1] + (1 - share) * noisy[1])

    fixed = TTC(model, settings(tau=float(attack.ratio[0])))
    fixed.counterattack = lambda *_: attack  # type: ignore[method-assign]
    ours, expected = slopes(lambda x: fixed.through_gate(encode, x, DRAWS)[:, 0].sum(), pixels)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)
    open_gate = TTC(model, settings(tau=1e-9)).through_gate(encode, pixels, DRAWS)
    torch.testing.assert_close(open_gate, noisy)
    zero = TTC(model, settings(tau=1e-9, otherwise="zero")).through_gate(encode, pixels, DRAWS)
    torch.testing.assert_close(zero, model.classifier.logits(encode(pixels)))


def test_the_smooth_sign_unrolls_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values are the defense's; with the smooth sign forward, too, its gradient is that of central differences."""
    model, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    defense = TTC(model, settings(tau=1.0))
    frozen, smooth = defense.variants()[:2]
    assert (smooth.name, smooth.second_derivative) == ("smooth sign", True)
    x = pixels.clone().requires_grad_()
    one, two = (variant.logits(encode, x, DRAWS) for variant in (frozen, smooth))
    torch.testing.assert_close(one, two)
    first, second = (torch.autograd.grad(z[:, 1].sum(), x)[0] for z in (one, two))
    assert not torch.allclose(first, second, rtol=1e-2)
    monkeypatch.setattr("advpt.test_time.ttc.sign_with_smooth_gradient", smooth_sign)
    ours, expected = slopes(lambda x: defense.unrolled(encode, x, DRAWS)[:, 1].sum(), pixels)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


def test_raising_a_loss_through_the_gate_crosses_the_threshold() -> None:
    """Where noise leaves the other class ahead and the counterattack does not, the ratio's part of the gradient points
    to a larger ratio."""
    model, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    defense = TTC(model, settings(tau=0.05))
    attack = defense.counterattack(encode, pixels, DRAWS)
    counter, noisy = (f(encode, pixels, DRAWS) for f in (defense.always_weighted, defense.only_noise))
    better = int((noisy - counter)[0].argmax())  # a logit that is higher without the counterattack
    x = pixels[:1].clone().requires_grad_()
    one = Draws(DRAWS.keys[:1])
    (whole,) = torch.autograd.grad(defense.through_gate(encode, x, one)[0, better], x)
    share = (1 - attack.ratio[0] / 0.1).detach()
    branches = share * defense.always_weighted(encode, x, one) + (1 - share) * defense.only_noise(encode, x, one)
    (without,) = torch.autograd.grad(branches[0, better], x)
    ratio = (encode(x + attack.deltas[0, :1]) - encode(x)).norm() / encode(x).norm()
    (of_ratio,) = torch.autograd.grad(ratio, x)
    push = whole - without
    assert float((push * of_ratio).sum()) > 0
    cosine = torch.nn.functional.cosine_similarity(push.flatten(), of_ratio.flatten(), dim=0)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_released_computes_in_half_precision(tiny_clip: Backbone) -> None:
    model, encode, pixels = defended_model(tiny_clip), tiny_clip.require_image(), images(3)
    dtypes: set[torch.dtype] = set()

    def watched(x: Tensor) -> Tensor:
        embeddings = encode(x)
        dtypes.add(embeddings.dtype)
        return embeddings

    released, sound = (parse(text).build(model) for text in ("ttc:released", "ttc"))
    logits = released(pixels, ("a", "b", "c"), True, watched)
    assert dtypes == {torch.float16} and logits.dtype == torch.float32
    same = sound(pixels, ("a", "b", "c"), True, encode)
    assert not torch.equal(logits, same) and released.parameters() != sound.parameters()


def test_passes_are_counted(tiny_clip: Backbone) -> None:
    model, encode = defended_model(tiny_clip), tiny_clip.require_image()
    for text in ("ttc", "ttc/steps=5", "hedge/steps=3", "et3", "anti-adversaries"):
        passes = [0, 0]

        def counted(x: Tensor, passes: list[int] = passes) -> Tensor:
            passes[0] += 1
            if x.requires_grad:
                x.register_hook(lambda _: passes.__setitem__(1, passes[1] + 1))
            return encode(x)

        defense = parse(text).build(model)
        defense(images(1), ("a",), True, counted)
        assert (defense.cost().forward, defense.cost().backward) == tuple(passes), text


def test_half_precision_is_no_matter_of_what_a_cache_has(tiny_clip: Backbone) -> None:
    model, encode, pixels = defended_model(tiny_clip), tiny_clip.require_image(), images(3)
    released = parse("ttc:released").build(model)
    expected = released(pixels, ("a", "b", "c"), True, encode)
    cached = CachedForward(encode)
    with torch.no_grad():
        single = cached(pixels)
    assert torch.equal(released(pixels, ("a", "b", "c"), True, cached), expected)
    fresh = CachedForward(encode)
    released(pixels, ("a", "b", "c"), True, fresh)
    with torch.no_grad():
        assert torch.equal(fresh(pixels), single), "nor does it leave anything there"
