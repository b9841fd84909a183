"""DBD: worked examples, both branches of its gate, and its 31 transforms."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from advpt.backbones.backbone import Backbone
from advpt.bank.defended_input import CachedForward
from advpt.errors import ConfigError
from advpt.prompts.classifier import Classifier
from advpt.test_time import dbd, parse
from advpt.test_time import dbd_transforms as transforms
from advpt.test_time.base import DefendedModel, Draws
from advpt.test_time.dbd import DBD, DBDSettings
from tests.helpers.float64 import in_float64
from tests.helpers.tiny_clip import DTYPES, Counter, defended_model, images, vectors

KEYS = ("a", "b", "c")
DRAWS = Draws(KEYS, 3)
NAMES = list(transforms.TRANSFORMS)
EXACT = [n for n, name in enumerate(NAMES) if "bits" not in name and "jpeg" not in name]  # the others: straight through


def with_text(text: Tensor, scale: float, **settings: Any) -> DBD:
    """The defense of a classifier alone."""
    nothing: Any = None
    return DBD(DefendedModel(Classifier(text, scale), nothing, (), nothing), DBDSettings(**settings))


def toy(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Own feature ``[1, 4]``, others ``[1, 6, 4]``, text and the expected values of the worked example."""
    example = vectors("dbd", dtype)
    features = example["features"]
    return features[:1], features[None, 1:], vectors("inputs", dtype)["text"], example


# --- formulas ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_attacked_image_of_the_worked_example(dtype: torch.dtype) -> None:
    own, others, text, example = toy(dtype)
    expected = example["k_4"]
    chosen = dbd.choose(10 * others @ text.T, 4)
    assert (chosen[0] + 1).tolist() == expected["chosen"].tolist()
    kept = dbd.pick(others, chosen)
    torch.testing.assert_close(dbd.direction(own, kept)[0], expected["mean_direction"], **DTYPES[dtype])
    assert dbd.score(own, kept).item() == pytest.approx(expected["score"], rel=DTYPES[dtype]["rtol"])
    torch.testing.assert_close(dbd.debiased(own, kept, 2.5)[0], expected["feature"], **DTYPES[dtype])
    logits = with_text(text, 10.0, kept=4)._logits(own, others, 4)
    torch.testing.assert_close(logits[0], expected["logits"], **DTYPES[dtype])
    every = example["k_6_all"]
    assert dbd.score(own, others).item() == pytest.approx(every["score"], rel=DTYPES[dtype]["rtol"])
    torch.testing.assert_close(dbd.debiased(own, others, 2.5)[0], every["feature"], **DTYPES[dtype])
    torch.testing.assert_close(with_text(text, 10.0)._logits(own, others, 6)[0], every["logits"], **DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_another_image_of_the_worked_example_gets_the_mean(dtype: torch.dtype) -> None:
    own, others, text, example = toy(dtype)
    kept, expected = dbd.pick(others, example["k_4"]["chosen"][None] - 1), example["k_4_tau_0.99"]
    torch.testing.assert_close(dbd.debiased(own, kept, 1.0)[0], expected["feature"], **DTYPES[dtype])
    torch.testing.assert_close(dbd.debiased(own, kept, 1.0), kept.mean(1), **DTYPES[dtype])
    logits = with_text(text, 10.0, tau=0.99)._logits(own, others, 4)[0]
    torch.testing.assert_close(logits, expected["logits"], **DTYPES[dtype])
    mean = with_text(text, 10.0).model.classifier.logits(kept.mean(1))[0]
    torch.testing.assert_close(mean, example["mean_of_chosen_normalised_equals_low_branch"], **DTYPES[dtype])


def test_the_gate_compares_the_score_with_tau() -> None:
    g = torch.Generator().manual_seed(1)
    own, others = torch.randn(40, 5, generator=g), torch.randn(40, 7, 5, generator=g)
    others[20:] += 4  # all in one direction
    own, others, text = (F.normalize(each, dim=-1) for each in (own, others, torch.randn(3, 5, generator=g)))
    score = dbd.score(own, others)
    assert bool((score.abs() <= 1).all()) and bool((score > 0.8).any()) and bool((score < 0.8).any())
    low = with_text(text, 10.0)._logits(own, others, 7, forced=1.0)
    high = with_text(text, 10.0)._logits(own, others, 7, forced=2.5)
    assert torch.equal(with_text(text, 10.0, tau=1.01)._logits(own, others, 7), low)
    assert torch.equal(with_text(text, 10.0, tau=-1.01)._logits(own, others, 7), high)
    gated = with_text(text, 10.0)._logits(own, others, 7)
    assert torch.equal(gated, torch.where((score > 0.8)[:, None], high, low))
    turned = with_text(text, 10.0)._logits(own, others.flip(1), 7)
    torch.testing.assert_close(turned, gated, rtol=0, atol=1e-5)


def test_views_without_a_difference_are_the_plain_model() -> None:
    own = F.normalize(torch.randn(2, 5, generator=torch.Generator().manual_seed(1)), dim=-1).requires_grad_()
    text = F.normalize(torch.randn(3, 5, generator=torch.Generator().manual_seed(2)), dim=-1)
    defense = with_text(text, 10.0)
    with torch.enable_grad():
        logits = defense._logits(own, own[:, None].expand(-1, 6, -1), 4)
        gradient = torch.autograd.grad(logits[:, 0].sum(), own)[0]
    torch.testing.assert_close(logits, defense.model.classifier.logits(own), rtol=0, atol=1e-5)
    assert dbd.score(own, own[:, None].expand(-1, 6, -1)).tolist() == [0, 0]
    assert bool(gradient.isfinite().all()) and float(gradient.norm()) > 0


# --- the defense -------------------------------------------------------------------------------------------------


def test_a_direction_that_counts_nothing_is_the_plain_model(tiny_clip: Backbone) -> None:
    model, encode, x = in_float64(tiny_clip), tiny_clip.require_image(), images(3).double()
    plain = model.classifier.logits(encode(x))
    nothing = parse("dbd/lambda_high=0/lambda_low=0").build(model)
    torch.testing.assert_close(nothing(x, KEYS, True, encode), plain, rtol=0, atol=1e-9)
    assert float((parse("dbd").build(model)(x, KEYS, True, encode) - plain).abs().max()) > 1e-3


def test_logits_come_from_the_kept_transforms_by_id_and_seed(tiny_clip: Backbone) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(3)
    counter = Counter(encode)
    cached = CachedForward(counter)
    with torch.no_grad():
        cached(x)
    logits = parse("dbd/tau=2").build(model, 5)(x, KEYS, True, cached)
    assert counter.images == 3 * parse("dbd").build(model).cost().forward == 3 * 32, "the image's own pass is shared"
    views = transforms.transformed(x, Draws(KEYS, 5), torch.arange(31).expand(3, -1))
    features = F.normalize(encode(views.flatten(0, 1)), dim=-1).unflatten(0, (3, 31))
    kept = dbd.pick(features, dbd.choose(model.classifier.scale * features @ model.classifier.features.T, 16))
    torch.testing.assert_close(logits, model.classifier.logits(kept.mean(1)), rtol=0, atol=1e-3)
    alone = parse("dbd/tau=2").build(model, 5)(x[1:2], KEYS[1:2], True, encode)
    torch.testing.assert_close(alone[0], logits[1], rtol=0, atol=1e-4)
    assert not torch.allclose(parse("dbd/tau=2").build(model, 6)(x, KEYS, True, encode), logits, atol=1e-4)


def test_many_images_are_the_same_as_few(tiny_clip: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(3)
    few = parse("dbd").build(model)(x, KEYS, True, encode)
    monkeypatch.setitem(dbd.AT_ONCE, "cpu", 1024)
    torch.testing.assert_close(parse("dbd").build(model)(x, KEYS, True, encode), few, rtol=0, atol=1e-4)


def test_the_key_has_settings_seed_and_transforms(tiny_clip: Backbone) -> None:
    model = defended_model(tiny_clip)
    parameters = parse("dbd/tau=0.7").build(model, 4).parameters()
    assert parameters["settings"] == {"kept": 16, "tau": 0.7, "lambda_high": 2.5, "lambda_low": 1.0}
    assert parameters["seed"] == 4 and parameters["transforms"] == transforms.VERSION
    one, other = (parse(text).build(model).variants() for text in ("dbd", "dbd/tau=0.7"))
    assert [a.parameters == b.parameters for a, b in zip(one, other)] == [False, True, True], "forced: whatever tau"
    low, high = (parse(text).build(model).variants() for text in ("dbd/lambda_low=0", "dbd/lambda_high=3"))
    assert [a.parameters == b.parameters for a, b in zip(one, low)] == [False, False, True]
    assert [a.parameters == b.parameters for a, b in zip(one, high)] == [False, True, False]


@pytest.mark.parametrize("wrong", ("kept=0", "kept=32", "tau=nan", "lambda_high=inf"))
def test_wrong_settings_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse(f"dbd/{wrong}")


@pytest.mark.parametrize("name", ("gate as it is", "forced low", "forced high"))
def test_gradients_are_those_of_central_differences(
    tiny_clip: Backbone, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of the transforms that have a derivative; draws, kept transforms and gate are the same on both sides."""
    every = torch.tensor([EXACT[i] for i in (0, 7, 15, 16, 19, 22, 23, 24)])
    monkeypatch.setattr(dbd, "some", lambda draws, n: every[:n].expand(len(draws.keys), -1))
    model, encode = in_float64(tiny_clip), tiny_clip.require_image()
    x, h = 0.4 + 0.2 * images(2).double(), 1e-5
    variant = {each.name: each for each in parse("dbd/tau=0.3").build(model).variants()}[name]

    def loss(at: Tensor) -> Tensor:
        return -variant.logits(encode, at, Draws(KEYS[:2])).log_softmax(-1)[:, 0].sum()

    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        slope = torch.autograd.grad(loss(leaf), leaf)[0]
    g = torch.Generator().manual_seed(3)
    for _ in range(5):
        way = torch.randn(x.shape, generator=g, dtype=torch.float64)
        way /= way.norm()
        numeric = (loss(x + h * way) - loss(x - h * way)) / (2 * h)
        assert float((slope * way).sum()) == pytest.approx(float(numeric), rel=1e-4)


def test_branches_have_gradients_of_their_own(tiny_clip: Backbone) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(3)
    slopes = {}
    for variant in parse("dbd/tau=2").build(model).variants():
        counter, leaf = Counter(encode), x.clone().requires_grad_()
        with torch.enable_grad():
            loss = variant.logits(counter, leaf, DRAWS).log_softmax(-1)[:, 0].sum()
            slopes[variant.name] = torch.autograd.grad(loss, leaf)[0]
        assert counter.images == 3 * variant.cost.forward == 27
        assert "straight through" in variant.gradient
        assert torch.allclose(variant.logits(encode, x[1:2], Draws(("b",), 3)), variant.logits(encode, x, DRAWS)[1:2],
                              atol=1e-4), "a part of the batch"  # fmt: skip
    assert torch.equal(slopes["gate as it is"], slopes["forced low"]), "tau is out of reach"
    assert not torch.allclose(slopes["forced low"], slopes["forced high"], atol=1e-6)
    assert all(bool((each.flatten(1).norm(dim=1) > 0).all()) for each in slopes.values())


# --- transforms --------------------------------------------------------------------------------------------------


def test_there_are_31_transforms_of_seven_kinds() -> None:
    kinds = {kind: len(list(names)) for kind, names in itertools.groupby(NAMES, lambda name: name.split()[0])}
    assert kinds == {"crop": 16, "3": 3, "jpeg": 3, "noise": 6, "median": 1, "mean": 1, "gaussian": 1}
    views = transforms.transformed(images(3), DRAWS, torch.arange(31).expand(3, -1))
    assert views.shape == (3, 31, 3, 32, 32) and float(views.min()) >= 0 and float(views.max()) <= 1
    flat = views.flatten(2)
    for one, other in itertools.combinations(range(31), 2):
        assert not torch.allclose(flat[:, one], flat[:, other], atol=1e-4), (NAMES[one], NAMES[other])


def test_what_an_image_gets_depends_on_its_key_and_the_seed_alone() -> None:
    x = images(3)
    views = transforms.transformed(x, DRAWS, torch.arange(31).expand(3, -1))
    picked = torch.tensor([[22, 0, 29], [5, 22, 3]])
    some = transforms.transformed(x[[2, 1]], Draws(("c", "b"), 3), picked)
    for row, image in enumerate((2, 1)):
        torch.testing.assert_close(some[row], views[image, picked[row]], rtol=0, atol=1e-6)
    other = transforms.transformed(x[:1], Draws(("a",), 4), torch.arange(31)[None])[0]
    same = [torch.allclose(one, two, atol=1e-6) for one, two in zip(other, views[0])]
    assert same == [not name.startswith(("crop", "noise")) for name in NAMES]


def test_an_attacker_draws_transforms_for_each_image() -> None:
    drawn = transforms.some(DRAWS, 8)
    assert drawn.shape == (3, 8) and all(len(set(row)) == 8 for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) == 3
    assert torch.equal(transforms.some(Draws(("b",), 3), 8)[0], drawn[1])
    many = transforms.some(Draws(tuple(map(str, range(200)))), 8)
    assert len(many.unique()) == 31 and set(transforms.some(DRAWS, 31)[0].tolist()) == set(range(31))


def test_fewer_bits_keep_white_white() -> None:
    x = torch.linspace(0, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    for rounding in (torch.floor, torch.round, torch.ceil):
        out = transforms.fewer_bits(x, rounding)
        levels = (out * 255).unique()
        assert set(levels.round().int().tolist()) <= {*range(0, 256, 32), 255}
        assert float((out - x).abs().max()) <= (16 if rounding is torch.round else 32) / 255 + 1e-6
        white = float(transforms.fewer_bits(torch.ones(1, 3, 2, 2), rounding).min())
        assert white == pytest.approx(224 / 255 if rounding is torch.floor else 1)
    assert bool((transforms.fewer_bits(x, torch.floor) <= x + 1e-6).all())
    assert bool((transforms.fewer_bits(x, torch.ceil) >= x - 1e-6).all())


def test_jpeg_is_that_of_the_8_bit_picture() -> None:
    x = images(2) + 0.05 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    x = x.clamp(0, 1)
    errors = []
    for quality in (50, 60, 75):
        out = transforms.jpeg(x, quality)
        file = io.BytesIO()
        Image.fromarray((x[1] * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
        torch.testing.assert_close(out[1], expected)
        errors.append(float((out - x).square().mean()))
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize("name", [name for name in NAMES if "bits" in name or "jpeg" in name])
def test_steps_without_a_derivative_are_passed_straight_through(name: str) -> None:
    x = images(2).requires_grad_()
    with torch.enable_grad():
        out = transforms.TRANSFORMS[name](x, Draws(("a", "b")))
        weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        assert torch.equal(torch.autograd.grad((out * weight).sum(), x)[0], weight)
    assert torch.equal(out, transforms.TRANSFORMS[name](x.detach(), Draws(("a", "b"))))


def test_filters_are_those_of_25_pixels() -> None:
    x = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(1))
    patch = x[1, 2, 2:7, 4:9]
    assert float(transforms.median(x)[1, 2, 4, 6]) == float(patch.flatten().sort().values[12])
    assert float(transforms.mean(x)[1, 2, 4, 6]) == pytest.approx(float(patch.mean()), rel=1e-5)
    torch.testing.assert_close(transforms.gaussian(x), TF.gaussian_blur(x, [5, 5]), rtol=0, atol=1e-6)
    constant = torch.full((1, 3, 8, 8), 0.3)
    for function in (transforms.median, transforms.mean, transforms.gaussian):
        torch.testing.assert_close(function(constant), constant)
    speck = constant.clone()
    speck[0, :, 3, 4] = 1
    assert torch.equal(transforms.median(speck), constant) and not torch.equal(transforms.mean(speck), constant)
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        slope = torch.autograd.grad(transforms.median(leaf)[1, 2, 4, 6], leaf)[0]
    assert float(slope.sum()) == 1 and float(x[slope.bool()]) == float(patch.median()), "to the median pixel alone"


def test_noise_and_crops_are_of_the_stated_size() -> None:
    grey = torch.full((3, 3, 32, 32), 0.5)
    noise = transforms.noisy(grey, DRAWS, 0) - 0.5
    assert float(noise.std()) == pytest.approx(0.1, abs=0.005) and abs(float(noise.mean())) < 0.005
    assert float(transforms.noisy(torch.ones(3, 3, 32, 32), DRAWS, 0).max()) == 1
    torch.testing.assert_close(transforms.crop(grey, DRAWS, 3), grey)
    ramp = torch.linspace(0, 1, 64).expand(100, 3, 64, 64).contiguous()
    draws = Draws(tuple(map(str, range(100))))
    wide, tall = (transforms.crop(each, draws, 0) for each in (ramp, ramp.transpose(2, 3).contiguous()))
    width = (wide[:, 0, 0, -1] - wide[:, 0, 0, 0]) * 63 / 64 + 1 / 64
    height = (tall[:, 0, -1, 0] - tall[:, 0, 0, 0]).abs() * 63 / 64 + 1 / 64
    area = width.abs() * height
    assert 0.45 < float(area.min()) < 0.55 and 0.9 < float(area.max()) <= 1.02
    assert 0.68 < float(area.mean()) < 0.82 and 30 < int((width < 0).sum()) < 70
