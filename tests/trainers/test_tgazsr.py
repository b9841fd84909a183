"""TGA-ZSR's trainer: logits and maps of one pass, TeCoA without its maps, Comp-TGA, and what has no maps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from advpt import losses
from advpt.errors import ConfigError
from advpt.files import tensor_digest
from advpt.prompts.classifier import from_templates
from tests.trainers.test_finetune import build
from trainers.tgazsr import PROFILES

SHORT = ("TRAINER.TGAZSR.ATTACK", "pgd2-ce@8/a4")
LABELS = torch.tensor([0, 1, 2, 1])


def pictures(seed: int = 0) -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def make(workspace, *more: str):
    """A trainer whose tower is no longer what it was."""
    words = [f"TRAINER.TGAZSR.{word}" if word.isupper() else word for word in more]
    trainer, g = build(workspace, "TGAZSR", *SHORT, *words), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainer.image_encoder.parameters():
            weight.add_(0.1 * weight.std().nan_to_num(0) * torch.randn(weight.shape, generator=g))
    return trainer


def by_hand(trainer, pixels: Tensor, attacked: Tensor, weights: tuple[float, float], norm: str, **form) -> Tensor:
    """The loss from three passes: the tuned tower's on attacked and clean images, the frozen one's on clean ones."""
    texts = [trainer.zero_shot.features]
    if "negated" in form:
        texts += [from_templates(trainer.encoder, trainer.classnames, [form.pop("negated")], 1.0).features]
    maps = []
    for encoder, x in ((trainer.image_encoder, attacked), (trainer.image_encoder, pixels), (trainer.reference, pixels)):
        each = [losses.attention_map(encoder.tokens(x), text[LABELS], **form) for text in texts]
        maps.append(each[0] if len(each) == 1 else each[0] * (1 - each[1]))
    distance = {"l2": lambda d: d.square().sum(1).sqrt(), "l1": lambda d: d.abs().mean(1)}[norm]
    refinement, constraint = (distance(each - maps[2]).mean() for each in maps[:2])
    ce = F.cross_entropy(trainer.zero_shot.logits(trainer.image_encoder(attacked)), LABELS)
    return ce + weights[0] * refinement + weights[1] * constraint


@pytest.mark.parametrize(
    ("given", "weights", "norm", "wanted"),
    (
        ((), (0.08, 0.05), "l2", {"size": (16, 16)}),
        (("PROFILE", "released", "ALPHA", "2"), (2, 0.05), "l2", {"size": (16, 16), "axis": "tokens"}),
        (("PROFILE", "paper", "BETA", "3"), (0.08, 3), "l2", {"size": (16, 16), "resize_first": True}),
        (("AXIS", "tokens", "DISTANCE", "l1"), (0.08, 0.05), "l1", {"size": (16, 16), "axis": "tokens"}),
        (("SIZE", "32", "ALPHA", "2"), (2, 0.05), "l2", {"size": (32, 32)}),
        (("NEGATED", "no {}", "ALPHA", "2"), (2, 0.05), "l2", {"size": (16, 16), "negated": "no {}"}),
    ),
)
def test_the_loss_of_three_passes(workspace, given, weights, norm, wanted):
    trainer, pixels, attacked = make(workspace, *given), pictures(), pictures(1)
    with torch.no_grad():
        torch.testing.assert_close(
            trainer.loss(pixels, attacked, LABELS),
            by_hand(trainer, pixels, attacked, weights, norm, **wanted),
            rtol=1e-5,
            atol=1e-5,
        )


def test_profiles_differ_in_their_maps(workspace):
    """On a grid of nine patches, whose middle no enlarged map reaches."""
    tokens, made = torch.randn(4, 10, 32, generator=torch.Generator().manual_seed(0)), {}
    settings = {"sound": {}, "paper": {"resize_first": True}, "released": {"axis": "tokens"}}
    assert settings.keys() == PROFILES.keys()
    for profile, wanted in settings.items():
        trainer = build(workspace, "TGAZSR", *SHORT, "TRAINER.TGAZSR.PROFILE", profile)
        trainer.backbone.card = dataclasses.replace(
            trainer.backbone.card, image=dataclasses.replace(trainer.backbone.card.image, tokens=10)
        )
        made[profile] = trainer.maps(tokens, LABELS)
        of_class = losses.attention_map(tokens, trainer.zero_shot.features[LABELS], (16, 16), **wanted)
        assert torch.equal(made[profile], of_class)
    one, two, three = made.values()
    assert min((one - two).abs().max(), (one - three).abs().max(), (two - three).abs().max()) > 0.01


def test_a_map_is_of_the_pass_that_the_logits_are_of(workspace, monkeypatch):
    trainer, passes = make(workspace), []
    kind = type(trainer.image_encoder)
    for name in ("tokens", "forward"):
        real = getattr(kind, name)

        def spy(self, pixels, real=real, name=name):
            passes.append((name, self is trainer.reference, torch.equal(pixels, clean)))
            return real(self, pixels)

        monkeypatch.setattr(kind, name, spy)
    clean = pictures()
    trainer.loss(clean, pictures(1), LABELS)
    assert passes == [("tokens", True, True), ("tokens", False, False), ("tokens", False, True)]


def test_gradients_reach_the_tuned_tower_alone(workspace):
    trainer = make(workspace)
    clean, attacked = pictures().requires_grad_(), pictures(1).requires_grad_()
    ways = torch.autograd.grad(trainer.loss(clean, attacked, LABELS), (clean, attacked))
    assert all(gradient.abs().max() > 0 for gradient in ways)
    trainer.loss(pictures(), pictures(1), LABELS).backward()
    assert all(weight.grad is not None for weight in trainer.image_encoder.parameters())
    frozen = [*trainer.reference.parameters(), *trainer.backbone.text.parameters()]
    assert all(weight.grad is None for weight in frozen) and not trainer.zero_shot.features.requires_grad


def test_no_map_differs_before_the_first_step(workspace):
    """The weights are large, so that the last bits of a map would show."""
    trainer = build(workspace, "TGAZSR", *SHORT, "TRAINER.TGAZSR.ALPHA", "1e6", "TRAINER.TGAZSR.BETA", "1e6")
    x = pictures()
    with torch.no_grad():
        loss = trainer.loss(x, x, LABELS)
        assert loss.item() == pytest.approx(F.cross_entropy(trainer.logits(x), LABELS).item(), rel=1e-5)


def test_without_maps_it_is_tecoa_to_the_last_bit(workspace):
    towers = {}
    for method, more in (("TGAZSR", ("TRAINER.TGAZSR.ALPHA", "0", "TRAINER.TGAZSR.BETA", "0")), ("TeCoA", ())):
        trainer = build(workspace, method, f"TRAINER.{method.upper()}.ATTACK", "pgd2-ce@8/a4", *more)
        trainer.epoch, trainer.num_batches = 0, 10
        for trainer.batch_idx in range(3):
            trainer.forward_backward({"img": pictures(trainer.batch_idx), "label": LABELS})
        towers[method] = tensor_digest(trainer.image_encoder.state_dict())
    assert towers["TGAZSR"] == towers["TeCoA"]


def test_a_negation_without_a_place_for_the_class_is_refused(workspace):
    with pytest.raises(ConfigError, match="TRAINER.TGAZSR.NEGATED is 'no cat', which has no {} where the class name"):
        build(workspace, "TGAZSR", "TRAINER.TGAZSR.NEGATED", "no cat")


def test_a_tower_without_class_token_is_refused_before_anything_is_loaded(workspace):
    code, printed = workspace.call("MODEL.BACKBONE.NAME", "RN50", "MODEL.WEIGHTS", "", trainer="TGAZSR")
    assert code != 0 and "RN50's image encoder is a ResNet without such tokens" in printed, printed
