"""What holds for all classifiers over crops: order, sharing, seeds, the image passes of all of them together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.bank.defended_input import CachedForward
from advpt.test_time import TEST_TIME, parse
from advpt.test_time.base import DefendedModel
from advpt.test_time.multi_view import MultiView
from tests.helpers.tiny_clip import Counter, defended_model, images

OVER_CROPS = [name for name in TEST_TIME if issubclass(TEST_TIME.get(name), MultiView)]
OWN = ("mean", "conf/rho=0.4", "logits", "feature", "zero", "mta")  # of which the order of views is tested here
IDS = ("a", "b", "c")


def build(text: str, model: DefendedModel) -> MultiView:
    defense = parse(text).build(model)
    assert isinstance(defense, MultiView)
    return defense


def embeddings(n: int = 3, views: int = 8) -> Tensor:
    """``[n, views, 64]`` around one direction for each image."""
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 1, 64, generator=g, dtype=torch.float64) + torch.randn(n, views, 64, generator=g).double()


def in_double(model: DefendedModel) -> DefendedModel:
    object.__setattr__(model.classifier, "features", model.classifier.features.double())
    return model


@pytest.mark.parametrize("text", OWN)
def test_the_order_of_crops_does_not_matter(text: str, tiny_clip: Backbone) -> None:
    defense, views = build(text, in_double(defended_model(tiny_clip))), embeddings()
    expected = defense.combine(views)
    for seed in range(3):
        order = 1 + torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(defense.combine(views[:, [0, *order.tolist()]]), expected)


@pytest.mark.parametrize("text", OWN)
def test_copies_of_one_view_and_one_view_alone_give_the_plain_decision(text: str, tiny_clip: Backbone) -> None:
    model, view = in_double(defended_model(tiny_clip)), embeddings(views=1)
    plain = model.classifier.logits(view[:, 0])
    for copies in (1, 2, 9):
        logits = build(text, model).combine(view.expand(-1, copies, -1))
        if text == "zero":
            assert torch.equal(logits.argmax(1), plain.argmax(1)) and float(logits.max()) > 1
        else:
            torch.testing.assert_close(logits.log_softmax(-1), plain.log_softmax(-1))


@pytest.mark.parametrize("text", OWN)
def test_float32_is_near_float64(text: str, tiny_clip: Backbone) -> None:
    model, views = defended_model(tiny_clip), embeddings()
    single = build(text, model).combine(views.float())
    double = build(text, in_double(model)).combine(views)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", OWN)
def test_images_in_another_order_or_alone_have_the_same_logits(text: str, tiny_clip: Backbone) -> None:
    defense, encode, x = build(f"{text}/views=5", defended_model(tiny_clip)), tiny_clip.require_image(), images(3)
    logits = defense(x, IDS, False, encode)
    turned = defense(x[[2, 0, 1]], ("c", "a", "b"), False, encode)
    torch.testing.assert_close(turned[[1, 2, 0]], logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(defense(x[1:2], ("b",), True, encode), logits[1:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("option", ("", "/augmix=all", "/eight_bits=floor"))
def test_seeds_and_options_change_what_an_image_gets(option: str, tiny_clip: Backbone) -> None:
    model, encode, x = defended_model(tiny_clip), tiny_clip.require_image(), images(3)
    spec = parse(f"mean/views=4{option}")
    defense, other = spec.build(model, seed=0), spec.build(model, seed=1)
    assert defense.draws_noise and not parse("mean/views=1").build(model).draws_noise
    assert defense.parameters() != other.parameters()
    assert not torch.equal(defense(x, IDS, False, encode), other(x, IDS, False, encode))
    if option:
        plain = parse("mean/views=4").build(model)
        assert not torch.equal(defense(x, IDS, False, encode), plain(x, IDS, False, encode))
        assert defense.parameters() != plain.parameters()
        assert defense.variants()[-1].parameters != plain.variants()[-1].parameters
        assert "straight through" in defense.variants()[-1].gradient


def test_all_of_them_share_the_attack_on_the_mean_of_views(tiny_clip: Backbone) -> None:
    model = defended_model(tiny_clip)
    shared = [parse(name).build(model).variants()[-1] for name in OWN]
    assert {each.name for each in shared} == {"mean of views"} and shared[0].cost.forward == 9
    assert all(each.parameters == shared[0].parameters for each in shared)
    assert parse("mean/views=4").build(model).variants()[-1].parameters["views"] == 4, "never more than the method has"


def test_all_rows_over_views_together_share_the_image_passes_of_one(tiny_clip: Backbone) -> None:
    """They make those of the dearest one, and what no other has: SS-TPT's weak augmentations, TTE's shifts."""
    model, x, tower = defended_model(tiny_clip), images(2), tiny_clip.require_image()

    def run(name: str, encode: CachedForward) -> Tensor:
        return parse(name).build(model)(x, IDS[:2], False, encode)

    alone, passes = {}, {}
    for name in (*OVER_CROPS, "tte"):
        counter = Counter(tower)
        alone[name], passes[name] = run(name, CachedForward(counter)), counter.images / 2
        assert passes[name] == parse(name).build(model).cost().forward
    assert {name for name in OVER_CROPS if passes[name] != 64} == {"sstpt"} and passes["sstpt"] == 32
    assert max(passes.values()) == 64 and passes["tte"] == 10
    counter = Counter(tower)
    encode = CachedForward(counter)
    with torch.no_grad():
        encode(x)  # the row without a defense
    for name in sorted(OVER_CROPS, key=lambda name: name == "sstpt"):
        assert torch.equal(run(name, encode), alone[name]), f"{name}: the same bits, shared or not"
        assert counter.images / 2 == (64 + 16 if name == "sstpt" else 64)
    assert torch.equal(run("tte", encode), alone["tte"]) and counter.images / 2 == 64 + 16 + 9


def test_a_method_that_sees_pictures_of_8_bits_does_not_disturb_the_others(tiny_clip: Backbone) -> None:
    model, x, counter = defended_model(tiny_clip), images(2), Counter(tiny_clip.require_image())
    encode = CachedForward(counter)
    for name in ("mean", "mean/eight_bits=floor", "logits", "logits/eight_bits=floor"):
        parse(name).build(model)(x, IDS[:2], False, encode)
    assert counter.images / 2 == 2 * 64
