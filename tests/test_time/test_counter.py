"""The loop of counter-perturbations, and what all of them have in common."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from advpt.backbones.backbone import Backbone
from advpt.bank.defended_input import Encode
from advpt.errors import ConfigError, DefenseError
from advpt.test_time import TEST_TIME, parse
from advpt.test_time.base import DefendedModel, Draws
from advpt.test_time.counter import CounterPerturbation, StepRule, climb, l2_direction, plain, smooth_sign
from advpt.test_time.et3 import ET3, ET3Settings
from tests.helpers.float64 import in_float64
from tests.helpers.small_encoders import inner_pixels, slopes, toy
from tests.helpers.tiny_clip import defended_model, images

NAMES = sorted(n for n in TEST_TIME if issubclass(TEST_TIME.get(n), CounterPerturbation))
NEUTRAL = {
    "anti-adversaries": ["steps=0", "alpha=0", "eps=0"],
    "et3": ["steps=0", "alpha=0", "eps=0"],
    "hedge": ["eps=0"],
    "ttc": ["eps=0"],
}
IDS = ("a", "b", "c")


@pytest.fixture
def clip(tiny_clip: Backbone) -> tuple[DefendedModel, Encode]:
    return in_float64(tiny_clip), tiny_clip.require_image()


def shift(delta: Tensor, l2: bool) -> Tensor:
    return delta.flatten(1).norm(dim=1) if l2 else delta.flatten(1).abs().amax(1)


def test_there_are_four() -> None:
    assert sorted(NEUTRAL) == NAMES


@pytest.mark.parametrize("text", [f"{name}/{setting}" for name, settings in NEUTRAL.items() for setting in settings])
def test_a_neutral_setting_is_the_plain_model(clip: tuple[DefendedModel, Encode], text: str) -> None:
    model, encode = clip
    pixels = images(3).double()
    logits = parse(text).build(model)(pixels, IDS, True, encode)
    torch.testing.assert_close(logits, model.classifier.logits(encode(pixels)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_images_do_not_mix_and_nothing_is_kept(tiny_clip: Backbone, name: str) -> None:
    encode, pixels = tiny_clip.require_image(), images(3)
    defense = parse(name).build(defended_model(tiny_clip))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    together = defense(pixels, IDS, True, encode)
    alone = torch.cat([defense(pixels[i : i + 1], IDS[i : i + 1], True, encode) for i in (2, 0, 1)])
    torch.testing.assert_close(alone[[1, 2, 0]], together, atol=1e-4, rtol=1e-4)
    assert torch.equal(defense(pixels, IDS, False, encode), together), "the second call gives the same bits"
    assert torch.equal(torch.get_rng_state(), state) and not together.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in tiny_clip.model.parameters())
    other = parse(name).build(defended_model(tiny_clip), seed=1)(pixels, IDS, True, encode)
    assert torch.equal(other, together) != defense.draws_noise


@pytest.mark.parametrize("name", NAMES)
def test_ball_and_box(name: str) -> None:
    model, encode, pixels = toy()
    settings = {"anti-adversaries": {"alpha": 3.0, "eps": 5.0}, "et3": {"eps": 3.0}}.get(name, {})
    defense = TEST_TIME.get(name)(model, dataclasses.replace(TEST_TIME.get(name).profiles["sound"], **settings))
    assert isinstance(defense, CounterPerturbation)
    delta = defense.delta(encode, pixels, Draws(("a", "b")))
    rule = defense.rule(pixels) if name == "et3" else defense.rule
    assert rule.l2 == (name == "et3") and float(shift(delta, rule.l2).max()) > 0.5 * rule.radius
    assert float(shift(delta, rule.l2).max()) <= rule.radius + 1e-6
    assert float((pixels + delta).min()) >= -1e-9 and float((pixels + delta).max()) <= 1 + 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_variants_differentiate_and_give_the_same_values_without_gradients(tiny_clip: Backbone, name: str) -> None:
    encode, pixels = tiny_clip.require_image(), images(2)
    defense = parse(name).build(defended_model(tiny_clip))
    assert len({str(v.parameters) for v in defense.variants()}) == len(defense.variants()) > 1
    for variant in defense.variants():
        x, draws = pixels.clone().requires_grad_(), Draws(("a", "b"))
        with sdpa_kernel(SDPBackend.MATH):
            logits = variant.logits(encode, x, draws)
            (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
            with torch.no_grad():
                again = variant.logits(encode, pixels, draws)
        assert float(gradient.flatten(1).norm(dim=1).min()) > 0, variant.name
        torch.testing.assert_close(logits.detach(), again, atol=1e-5, rtol=1e-5)
    assert all(p.grad is None for p in tiny_clip.model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_frozen_delta_is_that_of_differences_with_delta_constant(name: str) -> None:
    """Central differences of z(x + delta), delta that of the attacked images."""
    model, encode, pixels = toy()
    pixels, draws = inner_pixels(pixels), Draws(("a", "b"))
    defense = parse(name).build(model)
    assert isinstance(defense, CounterPerturbation)
    delta, labels = defense.delta(encode, pixels, draws), torch.tensor([1, 2])

    def loss(logits: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    x = pixels.clone().requires_grad_()
    variant = next(v for v in defense.variants() if v.name == "frozen delta")
    (gradient,) = torch.autograd.grad(loss(variant.logits(encode, x, draws)), x)
    _, expected = slopes(lambda at: loss(defense.logits(encode, at + delta)), pixels)
    directions = torch.randn(5, *pixels.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close((directions * gradient).flatten(1).sum(1), expected, rtol=1e-4, atol=1e-7)


def test_plain_variants_of_one_model_are_one_attack(tiny_clip: Backbone) -> None:
    model = defended_model(tiny_clip)
    made = [v for name in ("anti-adversaries", "et3", "hedge", "ttc/otherwise=zero")
            for v in parse(name).build(model).variants() if v.name == "plain"]  # fmt: skip
    assert len(made) == 4 and all(v.parameters == plain(model).parameters for v in made)
    one, two = (parse(f"hedge/eps={eps}").build(model).variants()[0].parameters for eps in (8, 4))
    assert one != two and one["text"] == model.classifier.digest


def test_small_steps_raise_the_objective_and_stay_constants() -> None:
    _, encode, pixels = toy()
    pixels = inner_pixels(pixels)
    rule = StepRule(20, 1e-3, torch.sign, 1.0)
    path = climb(lambda x: encode(x).square().sum(-1), pixels.requires_grad_(), torch.zeros_like(pixels), rule)
    values = torch.stack(path.values)
    assert values.shape == (20, 2) and bool((values.diff(dim=0) > 0).all())
    assert path.deltas.shape == (21, *pixels.shape) and not path.deltas.requires_grad


def test_directions() -> None:
    g = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 0.0]]]])
    assert torch.equal(l2_direction(g), torch.tensor([[[[0.6, -0.8]]], [[[0.0, 0.0]]]]))
    # mean |g| of the first image is 3.5: 3 / 6.5, -4 / 7.5
    torch.testing.assert_close(smooth_sign(g)[0].flatten(), torch.tensor([3 / 6.5, -4 / 7.5]))
    assert torch.equal(smooth_sign(g)[1], torch.zeros(1, 1, 2))
    ball = StepRule(1, 1, torch.sign, 5.0, l2=True, box=False)
    delta = torch.tensor([[[[6.0, 8.0]]], [[[0.3, 0.4]]]])
    torch.testing.assert_close(ball.project(delta, delta), torch.tensor([[[[3.0, 4.0]]], [[[0.3, 0.4]]]]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttc/eps=-1", "eps=-1.0: expected 0 or more, and finite"),
        ("ttc/tau=nan", "tau is 'nan'; expected a finite number"),
        ("ttc/otherwise=nothing", "unknown value of otherwise"),
        ("ttc/dtype=fp61", "Did you mean 'fp16'"),
        ("et3/alpha=inf", "alpha is 'inf'; expected a finite number"),
        ("hedge/steps=-2", "steps=-2: expected 0 or more"),
        ("anti-adversaries/clip=2", "expected True or False"),
    ],
)
def test_mistakes_are_explained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


@pytest.mark.parametrize("value", (float("inf"), float("nan")))
def test_settings_that_no_text_made_are_checked_too(value: float) -> None:
    with pytest.raises(DefenseError, match="alpha=.*: expected 0 or more, and finite"):
        ET3.check(ET3Settings(alpha=value))
