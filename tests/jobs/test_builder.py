"""The jobs of tables and figures are runs that train.py takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.jobs.exhibits import EXHIBITS, plan_exhibits
from advpt.jobs.places import Places, command
from advpt.jobs.setup import DEMO, PAPER
from tests.helpers.plans import PETS, ZS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(EXHIBITS))
@pytest.mark.parametrize("setup", [PETS, DEMO], ids=lambda w: w.name)
def test_every_command_is_one_that_train_takes(name, setup, tmp_path):
    import train

    if (name, setup) == ("towers", PETS):  # which the paper's set-up has on another CLIP
        setup = PAPER.narrowed(["pets"], ["vit_b32"], [1, 2, 3])
    plan = plan_exhibits([name], setup, ROOT).plan
    seen = set()
    for job in plan.jobs:
        key = (job.trainer, job.purpose, job.backbone)
        if key in seen:
            continue
        seen.add(key)
        words = command(job, plan, Places(ROOT, tmp_path, tmp_path, tmp_path))[2:]
        cfg = train.setup_cfg(train.parse_args(words))
        profile = "sound" if (name, setup.name) == ("peers", "paper") and job.trainer != ZS else "paper"
        assert job.seed == cfg.SEED and profile == cfg.BANK.PROFILE and job.trainer == cfg.TRAINER.NAME
        from advpt.evaluation.protocols import threats

        threats(cfg.EVAL.ATTACKS, cfg.EVAL.PROTOCOLS)
