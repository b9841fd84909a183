"""Who attacks test-time tuning: what each protocol's attacker goes through, and what cannot go through it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advpt.attacks import parse
from advpt.attacks.noise import SampleNoise
from advpt.backbones.clip import Backbone
from advpt.bank.build import Attacker
from advpt.bank.cache import AttackRequest, BankCache
from advpt.bank.defended_input import UNDEFENDED
from advpt.data.images import Preprocessing
from advpt.errors import AttackError, ConfigError
from advpt.evaluation import tuned
from advpt.evaluation.evaluator import evaluate
from advpt.evaluation.measure import Prompts, predict
from advpt.evaluation.protocols import KNOWS, Threat, threats
from advpt.evaluation.record import RunFacts
from advpt.prompts.classifier import Classifier, from_templates
from advpt.prompts.learner import PromptLearner
from advpt.settings import ContextSettings, EvalSettings
from advpt.test_time.base import DefendedModel
from advpt.tuning.test_time import PromptedCLIP, Tuner, TuningConfig
from tests.helpers.banks import make_images

NAMES, IDS = ["cat", "owl", "sea"], ["a", "b"]
TOKENS = 1 + 16 + 2


def make(clip: Backbone, **config: object) -> Tuner:
    encoder = clip.text
    settings = dataclasses.replace(
        ContextSettings(2, False, "a photo of a", "end", "fp32"), layout="independent", depth_text=2, depth_vision=2
    )
    learner = PromptLearner(encoder, NAMES, settings, torch.Generator().manual_seed(0), clip.card)
    fixed = from_templates(encoder, NAMES, ["a photo of a {}."], clip.logit_scale).features
    g = torch.Generator().manual_seed(1)
    banks = [[(torch.randn(TOKENS, 64, generator=g), torch.rand(TOKENS, 64, generator=g))] * 2 for _ in range(2)]
    model = PromptedCLIP(clip.require_image(), encoder, learner, fixed, clip.logit_scale)
    chosen = TuningConfig(views=8, rho=0.5, blocks=(0, 1), align_weight=50.0, batch=2, **config)
    return Tuner(model, dict(learner.named_parameters()), chosen, *banks)


def pixels() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def test_the_tuned_attacker_goes_through_the_prompts_of_the_clean_image(tiny_clip: Backbone) -> None:
    tuner, x = make(tiny_clip), pixels()
    forward = tuned.TunedTarget(tuner, "tuned").encoder(lambda p: p, IDS, 0, x)
    assert torch.allclose(forward(x), tuner(x, IDS), atol=1e-5)
    values = tuner.tune(tuner.views(x, IDS))
    assert torch.allclose(forward(1 - x), tuner.attackable(values, 1 - x), atol=1e-5)
    assert not torch.allclose(forward(1 - x), tuner(1 - x, IDS), atol=1e-3), "the evaluation tunes anew"
    idle = make(tiny_clip, steps=0)
    assert torch.allclose(tuned.TunedTarget(idle, "tuned").encoder(lambda p: p, IDS, 0, x)(x), idle(x, IDS), atol=1e-5)


def test_the_adaptive_attacker_draws_views_of_its_own(tiny_clip: Backbone) -> None:
    tuner, x = make(tiny_clip), pixels()
    at = tuned.TunedTarget(tuner, "adaptive")

    def run() -> list[Tensor]:
        forward = at.encoder(lambda p: p, IDS, 0, x)
        with torch.no_grad():
            return [forward(x), forward(x)]

    one, other = run()
    assert not torch.equal(one, other) and not torch.equal(one, tuner(x, IDS))
    assert torch.equal(torch.stack(run()), torch.stack([one, other])), "the same draws for the same images and seed"
    attack, y = parse("pgd2-ce@8/eot2").build(), torch.tensor([0, 1])
    forward = at.encoder(lambda p: p, IDS, 0, x)
    out = attack(forward, x, y, SampleNoise(IDS, 0))
    assert bool(out.changed.all()) and float(out.distance.max()) <= 8.001
    assert all(not p.requires_grad or p.grad is None for p in tuner.model.learner.parameters())


def test_who_depends_on_the_other_images_of_a_batch(tiny_clip: Backbone) -> None:
    tuner = make(tiny_clip)
    assert tuner.by_image and tuned.TunedTarget(tuner, "tuned").by_image
    assert not tuned.TunedTarget(tuner, "adaptive").by_image, "its views are drawn for the whole batch"
    chained = dataclasses.replace(tuner.config, reset_every=2)
    assert not dataclasses.replace(tuner, config=chained).by_image
    assert dataclasses.replace(tuner, config=dataclasses.replace(chained, steps=0)).by_image


def test_parts_of_a_batch_cannot_go_through_it(tiny_clip: Backbone) -> None:
    x = pixels()
    for protocol in ("tuned", "adaptive"):
        forward = tuned.TunedTarget(make(tiny_clip), protocol).encoder(lambda p: p, IDS, 0, x)
        with pytest.raises(AttackError, match="looks at all images of a batch at once; this one gave 1 of 2"):
            forward(x[:1])
    settings = EvalSettings(("pgd2-ce@4", "aa@4:static"), ("static", "tuned", "adaptive"), (), 0, 0)
    tuned.check(settings)
    tuned.check(dataclasses.replace(settings, attacks=("rap8@4:adaptive", "aa@4:transfer")))
    with pytest.raises(ConfigError, match="apgd-ce-t@4 under tuned cannot .* apgd-ce-t@4:static"):
        tuned.check(dataclasses.replace(settings, attacks=("apgd-ce-t@4:tuned",)))


def test_the_attacked_model_of_tuned_prompts_gives_logits_already(tiny_clip: Backbone) -> None:
    tuner, x = make(tiny_clip), pixels()
    classifier = Classifier(torch.zeros(3, 64), 1.0)
    attacker = Attacker(
        parse("pgd1-ce@4").build(), lambda p: p, classifier, tiny_clip.device,
        attack_target=tuned.TunedTarget(tuner, "tuned"),
    )  # fmt: skip
    forward = attacker.attack_target.encoder(attacker.encode, IDS, 0, x)
    assert torch.equal(attacker.model(forward)(x), forward(x)), "and no text feature follows"


def test_a_bank_says_whether_it_holds_logits(tiny_clip: Backbone, images, tmp_path) -> None:
    """Written by a chain that tunes prompts, read from the manifest: predictions then need no text features."""
    cache = BankCache(tmp_path, tiny_clip, lambda: tiny_clip)
    row = tuned.rows([make(tiny_clip)], images(2), "TRAINER.TAPT")[0]
    logits, embeddings = cache.get_all(AttackRequest(row.images), (*row.inputs, UNDEFENDED))
    assert (logits.kind, embeddings.kind) == ("logits", "embeddings")
    assert (logits.embeddings.shape, embeddings.embeddings.shape) == ((2, len(NAMES)), (2, 64))
    nothing = Classifier(torch.zeros(3, 64), 1.0)
    assert torch.equal(predict(nothing, logits), logits.embeddings.argmax(1))


def test_rows_and_their_threats(tiny_clip: Backbone, images) -> None:
    first, second = make(tiny_clip), make(tiny_clip)
    second.name = "tapt:constructed"
    rows = tuned.rows([first, second], images(4), "TRAINER.TAPT")
    assert [row.names for row in rows] == [("tapt",), ("tapt:constructed",)]
    found = {t.protocol: t for t in threats(["pgd2-ce@4"], ["transfer", "static", "tuned", "adaptive"])}
    assert [rows[1].applies_to(t) for t in found.values()] == [True, True, False, False]
    assert all(rows[0].applies_to(t) for t in found.values())
    assert {p: rows[0].attack_target(t, False) is not None for p, t in found.items()} == {
        "transfer": False, "static": False, "tuned": True, "adaptive": True,
    }  # fmt: skip
    assert str(rows[0].adapt(found["adaptive"], 3).attack) == "pgd2-ce@4/a4/eot3"
    assert rows[0].adapt(found["tuned"], 3) == found["tuned"]
    keys = {str(rows[0].attack_target(found[p], False).parameters()) for p in ("tuned", "adaptive")}
    assert len(keys) == 2
    learned, zero_shot = (Classifier(torch.eye(3)[i:], 1.0) for i in (0, 1))
    attacked = {p: t.attacked(learned, zero_shot) is learned for p, t in found.items()}
    assert attacked == {"transfer": False, "static": True, "tuned": True, "adaptive": True}
    assert Threat("static", found["static"].attack).knows == KNOWS["static"]


def test_beside_other_defenses_it_has_their_attackers_on_the_same_images(tiny_clip: Backbone, tmp_path: Path) -> None:
    pictures = dataclasses.replace(
        make_images(tmp_path / "images", 4), preprocessing=Preprocessing((32, 32), "bicubic")
    )
    learned = from_templates(tiny_clip.text, NAMES, ["a photo of a {}."], tiny_clip.logit_scale)
    model = DefendedModel(learned, tiny_clip.text, tuple(NAMES), tiny_clip.card)
    cache = BankCache(tmp_path / "banks", tiny_clip, lambda: tiny_clip, chunk=4)
    settings = EvalSettings(
        ("pgd1-ce@8",), ("static", "adaptive"), test_time=("tte/crops=0",), adaptive_subset=3, queries=0, eot=1
    )
    facts = RunFacts(dataset="tiny", trainer="TAPTVLI", seed=1, config={})
    rows = tuned.rows([make(tiny_clip)], pictures, "TRAINER.TAPT")
    records = evaluate(Prompts(learned, learned, ("{}",), model), pictures, cache, settings, facts, rows)
    by_name = {(r.result.protocol, r.result.defense_name): r.result for r in records}
    assert set(by_name) == {(p, d) for p in ("static", "adaptive") for d in ("", "tapt", "tte:sound/crops=0")}
    adaptive = by_name["adaptive", "tapt"]
    assert adaptive.images.n == by_name["adaptive", ""].images.n == 3 and adaptive.robust is not None
    names = [part.name for part in adaptive.robust.parts]
    assert names[0] == "static" and (adaptive.robust.correct == 0 or "unrolled, ce" in names)
    assert by_name["static", "tapt"].images.n == 4
