"""Counts of what a plan does, and times from the seconds that runs recorded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from advpt.jobs.estimate import Recorded, split_sizes, work
from advpt.jobs.plan import Job
from advpt.jobs.scripts import sweep

ROOT = Path(__file__).resolve().parents[2]
ONE_ATTACK = [("EVAL.ATTACKS", "('pgd10-ce@4:transfer',)")]


def test_test_images_and_passes_are_counted_once_where_trainers_share_banks():
    jobs = sweep(["pets"], ["vit_b16"], ["AdvPT", "CoOp"], [-1], [1, 2], ROOT, ONE_ATTACK).jobs
    alone, shared = work(jobs, ROOT, ()), work(jobs, ROOT, {"AdvPT", "CoOp"})
    # 3,669 images: once as they are, and 10 steps and an embedding under the attack
    assert (shared.images, shared.passes) == (3669, 3669 * 12)
    assert (alone.images, alone.passes) == (4 * 3669, 4 * 3669 * 12)
    assert work(jobs, ROOT, {"AdvPT"}).images == 3 * 3669


def test_adaptive_attacks_are_each_runs_own_and_open_ended_ones_are_named():
    attacks = [("EVAL.ATTACKS", "('pgd10-ce@4:adaptive','aa@4:transfer','rap@8:transfer')"), ("EVAL.SUBSET", "100")]
    jobs = sweep(["pets"], ["vit_b16"], ["AdvPT"], [-1], [1, 2], ROOT, attacks).jobs
    found = work(jobs, ROOT, {"AdvPT"})
    assert found.images == 100 and found.passes == 100 + 2 * 100 * 11
    assert [text.split("@")[0] for text in found.uncounted] == ["aa", "rap400-ce"]


def test_trainers_with_an_encoder_or_visual_prompts_of_their_own_share_no_test_banks():
    """The trait stands in the trainer's class; a plan's counts follow it."""
    from advpt.cli.common import sharing_trainers

    sharing = sharing_trainers()
    if not sharing:
        pytest.skip("trainers have no traits yet")
    assert {"AdvPT", "CoOp", "ZeroshotCLIP", "APT", "CoCoOp", "LinearProbe"} <= sharing
    alone = {"AdvTrain", "FastAT", "TradesFT", "FAP", "CAPT", "TradesPT", "AdvVPT", "AdvIVLP", "AdvMaPLe", "TAPTV"}
    assert not alone & sharing


def recorded(folder: Path, seed: int, seconds: float, **changes) -> Job:
    job = dataclasses.replace(Job("AdvPT", "pets", "vit_b16", -1, seed, "main", "a", "b"), **changes)
    about = {"job": job.fields(), "folder": str(job.folder), "backbone": job.backbone, "state": "done"}
    (folder / "jobs").mkdir(exist_ok=True)
    (folder / "jobs" / f"{job.id}.json").write_text(json.dumps(about | {"seconds": seconds}))
    return job


def test_seconds_are_those_of_runs_that_differ_in_the_seed_else_of_the_kind(tmp_path):
    for seed, seconds in ((1, 10.0), (2, 30.0), (3, 20.0)):
        job = recorded(tmp_path, seed, seconds)
    found = Recorded(tmp_path)
    assert found.seconds(dataclasses.replace(job, seed=9)) == 20
    assert found.seconds(dataclasses.replace(job, purpose="other")) == 20
    for change in ({"trainer": "CoOp"}, {"dataset": "dtd"}, {"backbone": "vit_l14"}):
        assert found.seconds(dataclasses.replace(job, **change)) is None


def test_a_time_says_what_it_is_made_of(tmp_path):
    job = recorded(tmp_path, 1, 100.0)
    others = [dataclasses.replace(job, seed=seed) for seed in (2, 3)]
    unknown = dataclasses.replace(job, trainer="CoOp")
    found = Recorded(tmp_path)
    assert found.sentence(others, 1) == "time: about 3 min for 2 runs, 1 at a time"
    assert found.sentence([*others, unknown], 8).endswith(
        "2 min for 2 runs, 8 at a time; nothing is recorded of the kinds of 1 more"
    )
    assert "nothing is recorded yet" in found.sentence([unknown], 1)
    assert found.seconds_left(others, {job: 40.0}) == 260 and found.seconds_left([unknown], {}) is None


def test_what_is_no_record_of_a_job_counts_for_nothing(tmp_path):
    job = recorded(tmp_path, 1, 100.0)
    (tmp_path / "jobs" / "torn.json").write_text("{")
    (tmp_path / "jobs" / "other.json").write_text('{"state": "done"}')
    (tmp_path / "jobs" / "failed.json").write_text(json.dumps({"state": "failed", "seconds": 9}))
    assert Recorded(tmp_path).seconds(job) == 100


def test_sizes_of_splits():
    assert split_sizes("noisy_digits") == (0, 0, 600) and split_sizes("theirs") == (0, 0, 0)
    assert split_sizes("pets") == (2944, 736, 3669)


def test_runs_on_another_image_tower_share_no_banks_with_those_on_the_models_own():
    (job,) = sweep(["pets"], ["vit_b16"], ["AdvPT"], [-1], [1], ROOT, ONE_ATTACK).jobs
    jobs = [
        dataclasses.replace(job, runs=(("MODEL.IMAGE_WEIGHTS", f"{run}/tower"),) if run else ())
        for run in ("", "a", "b")
    ]
    assert work(jobs, ROOT, {"AdvPT"}).images == 3 * 3669
    assert work([*jobs, dataclasses.replace(jobs[1], seed=2)], ROOT, {"AdvPT"}).images == 3 * 3669
