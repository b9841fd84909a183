"""The small steps of a request: estimates in words, weights from words, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from advpt.jobs.studies import plan_exhibits

from advpt.backbones import democlip
from advpt.errors import ConfigError
from advpt.jobs import effort, needs, reproduce
from advpt.jobs.local import Places
from advpt.jobs.setup import DEMO, PAPER

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("seconds", "says"), [(45, "45 s"), (720, "12 min"), (12_240, "3.4 h"), (86400 * 3.2, "3.2 days")]
)
def test_times_in_words(seconds, says):
    assert reproduce.in_words(seconds) == says


def test_an_estimate_shrinks_with_what_is_done(tmp_path):
    plan = plan_exhibits(["table1"], PAPER.narrowed(["pets"], ["vit_b16"], []), ROOT).plan
    places = Places(ROOT, tmp_path, tmp_path, tmp_path)
    text = reproduce.estimate(plan, places, 1, rate=100_000.0)
    assert text.startswith("4 of 4 runs to do, 4 banks shared between runs; very roughly ") and "are free)" in text
    gflop, _ = plan.work()
    # 3,669 test images under PGD-40 and 2,944 training images under PGD-10: 2.9 and 0.79 TFLOP each (specification)
    assert gflop > 3669 * 2900 + 2944 * 700
    assert plan.work([job.id for job in plan.jobs]) == (0.0, 0)


def test_attack_costs_are_those_measured():
    assert effort.attack_cost("pgd40-fkl@16", "vit_b16") == pytest.approx(2900, rel=0.05)
    assert effort.attack_cost("pgd10-fkl@8", "vit_l14") == pytest.approx(3600, rel=0.05)
    assert effort.attack_cost("rap400@16:transfer", "vit_b16") > 30_000
    assert 0 < effort.speed() < 1e6
    assert effort.counts("noisy_digits") == (0, 0, 600) and effort.classes("rendered_digits") == 10


def test_weights_come_as_words():
    assert reproduce.weights(["vit_b16=a=b.pt"]) == {"vit_b16": "a=b.pt"}
    with pytest.raises(ConfigError, match="BACKBONE=FILE"):
        reproduce.weights(["vit_b16"])
    with pytest.raises(ConfigError, match="--jobs"):
        reproduce.slots_here(-1)
    assert reproduce.slots_here(3)[0] == 3


def test_what_is_missing_is_named_and_the_demo_misses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVPT_CLIP_CACHE", str(tmp_path / "cache"))
    places = Places(ROOT, tmp_path, tmp_path / "data", tmp_path, {"vit_b16": str(tmp_path / "mine.pt")})
    paper = plan_exhibits(["table1"], PAPER.narrowed(["dtd"], [], [1]), ROOT).plan
    (data,) = needs.missing_data(paper, places)
    assert data.startswith("DescribableTextures: ") and "split_zhou_DescribableTextures.json" in data
    mine, large = needs.missing_weights(paper, places)
    assert mine == f"vit_b16: there is no file {tmp_path / 'mine.pt'}" and "ViT-L-14.pt is fetched from" in large
    demo = plan_exhibits(["all"], DEMO, ROOT).plan
    assert needs.missing_data(demo, places) == [] and needs.missing_weights(demo, places) == []


def test_the_second_democlip_is_small_and_another(monkeypatch):
    path = democlip.FILES["DemoCLIP-S"]
    assert path.stat().st_size <= 2_500_000
    model = democlip.load(path)
    assert model.visual.input_resolution == 32 and model.ln_final.weight.shape == (64,)
    assert len(model.visual.transformer.resblocks) == 2 and len(democlip.trained_token_ids(path)) > 100
