"""TAPT as one of the defenses at test time: the tuner's numbers, keys and gradients behind their interface."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from advpt.backbones.backbone import Backbone
from advpt.errors import ConfigError
from advpt.evaluation import tuned
from advpt.test_time import TEST_TIME, parse
from advpt.test_time.base import Draws
from advpt.tuning.tapt import TAPT
from tests.evaluation.test_tuned import make
from tests.helpers.tiny_clip import Counter, images

IDS = ("a", "b")


def test_it_classifies_as_the_tuner_does(tiny_clip: Backbone) -> None:
    tuner, x = make(tiny_clip), images(2)
    defense, encode = TAPT(tuner), Counter(tiny_clip.require_image())
    assert torch.equal(defense(x, IDS, False, encode), tuner(x, IDS)) and encode.images == 0
    assert defense.parameters() == tuner.parameters(), "a bank's key"
    assert defense.by_image and defense.draws_noise and not TAPT(make(tiny_clip, reset_every=2)).by_image
    torch.testing.assert_close(
        defense.model.classifier.logits(tiny_clip.require_image().features(x, defense.model.classifier.visual)),
        tuner.untuned(x), rtol=0, atol=1e-5,
    )  # fmt: skip


def test_its_passes_are_counted(tiny_clip: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    tuner, x = make(tiny_clip), images(2)
    image, passes = tuner.model.image, list[int]()
    features = type(image).features

    def counted(self, pixels, *rest):
        passes.append(len(pixels))
        return features(self, pixels, *rest)

    monkeypatch.setattr(type(image), "features", counted)
    defense = TAPT(tuner)
    defense(x, IDS, False, image)
    cost = defense.cost()
    assert sum(passes) == 2 * cost.forward and (cost.backward, cost.text_forward, cost.text_backward) == (4, 2, 1)
    assert TAPT(make(tiny_clip, steps=0)).cost().forward == 1
    assert tuned.rows([tuner], object(), "TRAINER.TAPT")[0].cost() == cost


def test_what_an_attacker_differentiates(tiny_clip: Backbone) -> None:
    tuner, encode = make(tiny_clip), tiny_clip.require_image()
    unrolled, plain = TAPT(tuner).variants()
    assert unrolled.second_derivative and unrolled.parameters != plain.parameters
    draws, gradients = Draws.of_attacker(torch.Generator().manual_seed(0), 2), []
    for variant in (unrolled, plain):
        x = images(2).requires_grad_()
        logits = variant(encode, x, draws)
        gradients.append(torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 1])), x)[0])
        with torch.no_grad():
            torch.testing.assert_close(variant(encode, images(2), draws), logits.detach(), rtol=0, atol=5e-3)
    assert not torch.allclose(*gradients, rtol=1e-2)
    with torch.no_grad():
        again = dataclasses.replace(tuner, config=dataclasses.replace(tuner.config, seed=draws.seed))
        torch.testing.assert_close(unrolled(encode, images(2), draws), again(images(2), draws.keys), rtol=0, atol=5e-3)
        torch.testing.assert_close(plain(encode, images(2), draws), tuner.untuned(images(2)), rtol=0, atol=1e-4)


def test_no_text_makes_it() -> None:
    with pytest.raises(ConfigError, match=r"starts from the prompts of a run.*--trainer TAPTV"):
        parse("tapt/views=8")
    assert "tapt" not in TEST_TIME
