"""Recipes of the repository, and settings beside them."""

from __future__ import annotations

from pathlib import Path

from advpt.jobs.exhibits import plan_exhibits
from advpt.jobs.setup import DEMO, PAPER
from tests.helpers.plans import PETS

ROOT = Path(__file__).resolve().parents[2]


def test_runs_of_a_recipe_that_was_changed_under_its_name_are_other_runs():
    """ImageNet's had a warm-up epoch, DemoCLIP's a rate of 0.005, and the demo's tuning at test time the paper's rate:
    their runs are not taken for those of the recipe as it is."""
    setup = PAPER.narrowed(["imagenet"], ["vit_b16"], [1])
    jobs = [
        j for j in plan_exhibits(["fig3"], setup, ROOT).plan.jobs if j.config.endswith("AdvPT/vit_b16_imagenet.yaml")
    ]
    assert len(jobs) == 2 and all(("OPTIM.WARMUP_EPOCH", "0") in job.settings for job in jobs)
    pets = plan_exhibits(["fig3"], PETS, ROOT).plan.jobs
    assert not any(key == "OPTIM.WARMUP_EPOCH" for job in pets for key, _ in job.settings)
    demo = [job for job in plan_exhibits(["tapt"], DEMO, ROOT).plan.jobs if job.trainer.startswith("TAPT")]
    assert demo and all(("TRAINER.TAPT.LR", "0.01") in job.settings for job in demo)
    tuned = [job for job in plan_exhibits(["table1", "peers"], DEMO, ROOT).plan.jobs if job.trainer == "AdvPT"]
    assert all(("OPTIM.LR", "0.001") in job.settings for job in tuned)
    rates = {job.purpose == "peers": dict(job.settings)["OPTIM.LR"] for job in tuned}
    assert rates == {False: "0.001", True: DEMO.peers.rates["AdvPT"]}
