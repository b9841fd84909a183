"""Plans: an order, no job twice, and ids of what runs do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from advpt.errors import ConfigError
from advpt.jobs.exhibits import plan_exhibits
from advpt.jobs.places import Places, command
from advpt.jobs.plan import Job, Plan
from tests.helpers.plans import PETS

ROOT = Path(__file__).resolve().parents[2]


def test_an_id_is_what_the_run_does_and_not_where_it_lies(tmp_path):
    plan = plan_exhibits(["table1"], PETS, ROOT).plan
    job = plan.jobs[1]
    changes = {"seed": 9, "dataset": "dtd", "settings": (("A", "1"),), "shots": 4, "model": "x", "config": "other.yaml"}
    ids = {dataclasses.replace(job, **{name: value}).id for name, value in changes.items()}
    assert len(ids) == len(changes) and job.id not in ids
    assert dataclasses.replace(job, after=(plan.jobs[0].id,)).id == job.id, "the order is not what a run does"
    here, there = (Places(ROOT, tmp_path / x, tmp_path / x, tmp_path / x) for x in "ab")
    assert command(job, plan, here) != command(job, plan, there)
    assert plan_exhibits(["table1", "table2"], PETS, ROOT).plan.jobs[1].id == job.id


def test_a_plan_is_in_order_and_has_no_job_twice():
    job = Job("AdvPT", "pets", "vit_b16", -1, 1, "main", "a.yaml", "b.yaml")
    with pytest.raises(ConfigError, match="twice"):
        Plan((job, job))
    with pytest.raises(ConfigError, match="does not stand before it"):
        Plan((dataclasses.replace(job, model="0" * 12), job))
