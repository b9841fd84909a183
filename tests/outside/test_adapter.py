"""An outside model in the places of ours: exact logits, and the images that attacks make of the raw object."""

from __future__ import annotations

import pytest
import torch

import advpt
from advpt.attacks import parse
from advpt.bank.cache import AttackRequest, BankCache
from advpt.bank.defended_input import DefendedInput
from advpt.outside.adapter import Identity, OutsideBackbone, OwnDefense, defended_model
from advpt.outside.identity import frozen
from advpt.outside.model import OutsideModel
from advpt.outside.rules import check
from advpt.test_time.base import Draws
from tests.helpers.outside import NAMES, SIDE, LeftHalf, LooksAway, image_set, no_gradient, photos


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return image_set(photos(tmp_path_factory.mktemp("photos"), per_class=3))


def test_the_classifier_gives_back_what_it_gets():
    classifier = Identity.of(3, torch.device("cpu"))
    logits = torch.tensor([[torch.nan, torch.inf, -0.0], [1e-45, 3e38, 0.1]])
    assert classifier.logits(logits) is logits and len(classifier.features) == 3
    assert classifier.digest == Identity.of(3, torch.device("cpu")).digest != Identity.of(4, torch.device("cpu")).digest
    assert len(classifier.moved(lambda tensor: tensor.double()).features) == 3


@pytest.mark.parametrize("text", ["pgd3-ce@4", "apgd-ce3@4", "square9@4"])
def test_attacks_through_banks_make_the_images_that_they_make_of_the_raw_object(images, tmp_path, text):
    network = LeftHalf().eval().requires_grad_(False)
    model = OutsideModel(network)
    backbone = OutsideBackbone(model, len(NAMES))
    cache = BankCache(root=tmp_path, backbone=backbone, load=lambda: backbone)
    bank = cache.get_all(AttackRequest(images, parse(text), Identity.of(3, model.device), 5), [DefendedInput()])[0]
    batch = next(images.batches(range(len(images)), len(images)))
    attacked = advpt.attack(text, network, batch.pixels, batch.labels, seed=5, keys=images.ids)
    assert torch.equal(bank.embeddings, network(attacked))
    assert torch.equal(bank.columns["linf"], 255 * (attacked - batch.pixels).abs().flatten(1).amax(1))


def test_it_is_what_records_and_banks_ask_a_backbone_for():
    model = OutsideModel(LooksAway(), name="my.module:make")
    backbone = OutsideBackbone(model, 3)
    assert (backbone.folder, backbone.image_digest, backbone.text_digest) == ("my.module-make", model.digest, None)
    assert backbone.source["kind"] == "outside" and backbone.source["code"] and not backbone.concurrent
    backbone.require_preprocessing(model.preprocessing)
    assert backbone.reads is None and backbone.packages == () and backbone.require_image()


def test_its_defense_has_the_variants_that_lead_somewhere_or_are_named(images):
    pixels, draws = torch.rand(2, 3, SIDE, SIDE), Draws(("a", "b"))
    inner = defended_model(Identity.of(3, torch.device("cpu")), NAMES)

    def defense(value, **changes):
        model = OutsideModel(value, **changes)
        with frozen(model.modules):
            return OwnDefense(inner, model, check(model, images))

    own = LooksAway()
    whole = defense(own)
    own.undefended.eval()
    by_name = {each.name: each for each in whole.variants()}
    assert list(by_name) == ["masked", "mirrored", "the model", "plain"] and by_name["plain"].undefended
    assert torch.equal(by_name["mirrored"](own.undefended, pixels, draws), own.mirrored(pixels))
    assert torch.equal(whole.classify(own.undefended, pixels, draws, True), own(pixels))
    assert len({str(each.parameters) for each in by_name.values()}) == 4 and not any(
        each.draws for each in by_name.values()
    )
    assert [each.name for each in defense(LeftHalf()).variants()] == ["the model"]
    assert defense(no_gradient).variants() == () and defense(LeftHalf(), passes=7).cost().forward == 7
    undifferentiable = defense(no_gradient, undefended=LeftHalf())
    assert [each.name for each in undifferentiable.variants()] == ["plain"]
