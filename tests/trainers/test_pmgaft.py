"""PMG-AFT's trainer: what goes through which tower, and three losses of one name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from advpt.prompts.classifier import Classifier
from tests.trainers.test_finetune import build
from trainers.pmgaft import PROFILES

SHORT = ("TRAINER.PMGAFT.ATTACK", "pgd2-ce@8/a4")


def make(workspace, *more: str):
    """A trainer with texts far apart whose tower is no longer what it was, and a batch: pixels, attacked pixels,
    labels."""
    trainer, g = build(workspace, "PMGAFT", *SHORT, *more), torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(3, 32, generator=g), dim=-1)
    for name in ("zero_shot", "training_classifier"):
        setattr(trainer, name, dataclasses.replace(getattr(trainer, name), features=texts))
    with torch.no_grad():
        for weight in trainer.image_encoder.parameters():
            weight.add_(0.3 * weight.std().nan_to_num(0) * torch.randn(weight.shape, generator=g))
    pixels = torch.rand(4, 3, 16, 16, generator=g)
    attacked = (pixels + 0.1 * torch.randn(pixels.shape, generator=g)).clamp(0, 1)
    return trainer, pixels, attacked, torch.tensor([0, 1, 2, 1])


def probabilities(encoder, pixels: Tensor, classifier: Classifier, scale: float) -> np.ndarray:
    """Of scaled cosines, in float64."""
    with torch.no_grad():
        features = encoder(pixels).double().numpy()
    text = classifier.features.double().numpy()
    odds = np.exp(scale * features @ text.T / np.linalg.norm(features, axis=1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Summed over images and classes."""
    return float((p * np.log(p / q)).sum())


def by_hand(trainer, pixels: Tensor, attacked: Tensor, labels: Tensor, profile: str, weights=(1.0, 1.0)) -> float:
    """The table of the three losses (A, A0: attacked images in the tuned and the frozen tower; C: clean ones)."""
    scale = 1.0 if profile == "released" else trainer.backbone.logit_scale
    of = [(trainer.image_encoder, attacked), (trainer.reference, attacked), (trainer.image_encoder, pixels)]
    a, a0, c = (probabilities(encoder, x, trainer.zero_shot, scale) for encoder, x in of)
    ce = -float(np.log(a[range(4), labels]).mean())
    alpha, beta = weights
    return (
        ce
        + {
            "paper": (alpha * kl(a0, a) + beta * kl(c, a)) / 4,
            "released": alpha * kl(a0, a) + beta * kl(c, a),
            "ttc": (alpha * kl(a, a0) + beta * kl(a, c)) / 4,
        }[profile]
    )


def test_the_three_losses(workspace):
    made = {}
    for profile in PROFILES:
        trainer, *batch = make(workspace, "TRAINER.PMGAFT.PROFILE", profile)
        made[profile] = trainer.loss(*batch).item()
        assert made[profile] == pytest.approx(by_hand(trainer, *batch, profile), rel=1e-4)
    one, two, three = made.values()
    assert min(abs(one - two), abs(one - three), abs(two - three)) > 0.01 * one, "they differ"


def test_weights_and_values_that_are_given(workspace):
    trainer, *batch = make(workspace, "TRAINER.PMGAFT.ALPHA", "0", "TRAINER.PMGAFT.BETA", "0")
    plain = trainer.loss(*batch).item()
    assert plain == pytest.approx(torch.nn.functional.cross_entropy(trainer.logits(batch[1]), batch[2]).item())
    trainer, *batch = make(workspace, "TRAINER.PMGAFT.ALPHA", "3", "TRAINER.PMGAFT.BETA", "0.5")
    assert trainer.loss(*batch).item() == pytest.approx(by_hand(trainer, *batch, "paper", (3, 0.5)), rel=1e-4)
    given = ("SCALE", str(trainer.backbone.logit_scale), "KL_REDUCTION", "mean", "KL_DIRECTION", "reverse")
    words = [f"TRAINER.PMGAFT.{word}" if i % 2 == 0 else word for i, word in enumerate(given)]
    trainer, *batch = make(workspace, "TRAINER.PMGAFT.PROFILE", "released", *words)
    assert trainer.loss(*batch).item() == pytest.approx(by_hand(trainer, *batch, "ttc"), rel=1e-4)


def test_gradients_reach_the_tuned_tower_by_both_ways_and_no_other(workspace):
    trainer, pixels, attacked, labels = make(workspace)
    moved, still = pixels.clone().requires_grad_(), attacked.clone().requires_grad_()
    clean, hostile = torch.autograd.grad(trainer.loss(moved, still, labels), (moved, still))
    assert clean.abs().max() > 0 and hostile.abs().max() > 0
    trainer.loss(pixels, attacked, labels).backward()
    assert all(weight.grad is not None for weight in trainer.image_encoder.parameters())
    assert all(weight.grad is None and not weight.requires_grad for weight in trainer.reference.parameters())


def test_nothing_is_added_to_the_cross_entropy_where_nothing_differs(workspace):
    trainer = build(workspace, "PMGAFT", *SHORT)
    pixels, labels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])
    plain = torch.nn.functional.cross_entropy(trainer.logits(pixels), labels)
    assert trainer.loss(pixels, pixels, labels).item() == pytest.approx(plain.item(), abs=1e-5)


def test_training_attacks_bare_cosines_where_the_loss_has_them_and_evaluation_does_not(workspace):
    trainer, pixels, _, labels = make(workspace, "TRAINER.PMGAFT.PROFILE", "released")
    with torch.no_grad():
        bare = trainer.attacked_model(trainer.attack)(pixels)
        evaluated = trainer.classifier().logits(trainer.image_encoder(pixels))
    assert bare.abs().max() <= 1 and trainer.classifier().scale == trainer.backbone.logit_scale != 1
    torch.testing.assert_close(evaluated, trainer.backbone.logit_scale * bare)
    other = make(workspace)[0]
    assert not torch.equal(trainer.perturb(pixels, labels, 3), other.perturb(pixels, labels, 3))
