"""The model of time and disk: a plan played through with given rates, and where rates come from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from advpt.jobs.model import Rates, play
from advpt.jobs.studies import sweep

from advpt.cli import main
from advpt.errors import ConfigError
from advpt.jobs import effort, model
from advpt.jobs.plan import BankNeed, Job, Plan, Tuning
from advpt.jobs.reproduce import in_words
from advpt.settings import recipe

ROOT = Path(__file__).resolve().parents[2]
SHARED, OWN = BankNeed("shared", 10, 100.0, 7), BankNeed("own", 10, 20.0, 3)
RATES = Rates({"b": 10.0}, {"b": 5.0}, {"b": 0.5}, 2.0, "made up")


def job(seed: int, **more) -> Job:
    return Job("T", "d", "b", -1, seed, "main", "a", "b", **{"banks": (SHARED,), "size": 1, **more})


def test_a_run_is_its_start_its_banks_its_own_work_and_its_tuning():
    whole = job(1, banks=(SHARED, OWN, OWN), gflop=30.0, tuning=Tuning(4, 5.0))
    # start 2 s; banks of 1000 and 200 GFLOP, each once, and 30 besides, at 10 a second; 4 steps of 0.5 s + 5 GFLOP at 5
    assert RATES.seconds(whole, ["shared", "own"]) == pytest.approx(2 + 100 + 20 + 3 + 4 * 1.5)
    assert RATES.seconds(whole, ["own"]) == pytest.approx(2 + 20 + 3 + 4 * 1.5)


def test_who_shares_a_bank_waits_for_it_and_then_all_run_at_once():
    plan = Plan((job(1), job(2), job(3), job(4, banks=(OWN,))))
    one, many = play(plan, RATES, 1), play(plan, RATES, 8)
    assert one.seconds == one.busy == many.busy == pytest.approx(102 + 2 + 2 + 22)
    # job 3 waits for job 1 alone, job 4 runs beside it
    assert many.seconds == pytest.approx(102 + 2)
    assert play(plan, RATES, 2).seconds == pytest.approx(102 + 2)
    assert many.bytes == 4 * 1 + 10 * 7 + 10 * 3 and many.longest == ("shared", pytest.approx(100))
    assert many.by_kind == {("d", "b"): (pytest.approx(128), many.bytes)}


def test_what_is_done_costs_nothing_and_its_banks_are_there():
    plan = Plan((job(1), job(2), job(3, model=job(2).id, banks=())))
    left = play(plan, RATES, 2, [plan.jobs[0].id])
    assert left.seconds == pytest.approx(2 + 2) and left.bytes == 2, "an evaluation waits for what it evaluates"
    assert play(plan, RATES, 2, [j.id for j in plan.jobs]).seconds == 0


def test_a_long_bank_is_named_with_what_to_do():
    played = play(Plan((job(1), job(2))), RATES, 4)
    said = "\n".join(model.sentences(played, RATES, in_words))
    assert "2 runs on 4 workers" in said and "rates: made up" in said
    assert "the longest bank (shared) takes 2 min on one worker and 25 s on all" in said


@pytest.mark.parametrize(
    ("text", "means"), [("8xH200", (8, "H200")), ("2xhere", (2, "here")), ("16xa100", (16, "A100"))]
)
def test_clusters(text, means):
    assert model.cluster(text) == means


@pytest.mark.parametrize("text", ["8", "0xH200", "8xB9000", "xH200", "H200x8"])
def test_no_cluster(text):
    with pytest.raises(ConfigError, match="not of the form 8xH200"):
        model.cluster(text)


def test_rates_of_a_device_that_is_not_here_say_so(monkeypatch):
    plan = Plan((job(1),))
    plain, faster = (model.rates_for("H200", plan, ROOT, p) for p in ("fp32", "amp"))
    assert plain.note.startswith("not measured: 67 TFLOP/s (fp32, data sheet of H200)")
    assert faster.image["b"] / plain.image["b"] == pytest.approx(989 / 67)


def test_rates_are_measured_on_the_plans_networks(monkeypatch):
    monkeypatch.setattr(model, "start_seconds", lambda repository: 3.0)
    plan = Plan((dataclasses.replace(job(1), backbone="democlip_s"),))
    rates = model.rates_for("here", plan, ROOT)
    assert rates.start == 3.0 and rates.image.keys() == {"democlip_s"} and rates.note.startswith("measured on")
    assert 0.01 < rates.image["democlip_s"] < 1e5 and 0 <= rates.step["democlip_s"] < 5 and rates.text["democlip_s"] > 0
    with pytest.raises(ConfigError, match="no network whose size is known"):
        model.measure(["mine"], ROOT, "here")


def test_a_sweep_knows_what_its_recipes_ask_for():
    plan = sweep(["digits"], ["democlip"], ["ZeroshotCLIP", "AdvPT"], [-1, 2], [1], ROOT, [("OPTIM.MAX_EPOCH", "3")])
    vanilla, whole, few = plan.jobs
    assert {need.label.split(": ")[1] for need in vanilla.banks} >= {"clean test", "pgd40-fkl@8/a0.25 on test"}
    assert vanilla.gflop == 0, "an adaptive attack on the hand-written prompt is no other than a transfer attack"
    assert whole.gflop == pytest.approx(2 * 600 * effort.attack_cost("pgd10-ce@8", "democlip"))
    assert (whole.tuning.steps, few.tuning.steps) == (3 * (897 // 32), 3 * 1)
    assert "pgd10-fkl@4/a0.5 on train" in whole.banks[-1].label and few.banks[-1].images == 20


def test_a_recipe_is_the_yaml_its_bases_and_the_pairs():
    found = recipe(
        ROOT / "configs/trainers/AdvPT/democlip.yaml", [("BANK.LIMIT", "7"), ("OPTIM.LR", "1.5"), ("X.Y", "a b")]
    )
    assert (found["TRAINER.ADVPT.N_CTX"], found["OPTIM.MAX_EPOCH"], found["INPUT.INTERPOLATION"]) == (16, 40, "bicubic")
    assert (found["BANK.LIMIT"], found["OPTIM.LR"], found["X.Y"], found["EVAL.SUBSET"]) == (7, 1.5, "a b", 0)


def test_the_whole_paper_on_a_cluster(capsys):
    assert main(["sweep", "plan", "--cluster", "8xH200"]) == 0
    said = capsys.readouterr().out
    assert "runs on 8 workers" in said and "imagenet" in said and "vit_l14" in said
    assert "not measured" in said and "the longest bank (imagenet, vit_l14" in said
    assert main(["sweep", "plan", "pets", "--cluster", "8xH2000"]) == 2
