"""Sweeps: the product of what is asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from advpt.errors import ConfigError
from advpt.jobs.scripts import sweep
from tests.helpers.plans import ADV, COOP, ZS

ROOT = Path(__file__).resolve().parents[2]


def test_a_sweep_is_the_product_and_zero_shot_clip_stands_once():
    plan = sweep(["pets", "dtd"], ["vit_b16"], [ZS, COOP, ADV], [1, -1], [1, 2], ROOT)
    assert Counter(job.trainer for job in plan.jobs) == {ZS: 2, COOP: 8, ADV: 8}
    assert {job.folder.name for job in plan.jobs} and len({job.folder for job in plan.jobs}) == 18
    with pytest.raises(ConfigError, match="there is no configs/trainers/AdvPT/vit_b61.yaml"):
        sweep(["pets"], ["vit_b61"], [ADV], [-1], [1], ROOT)
    with pytest.raises(ConfigError, match="unknown trainer 'AdvTP'. Did you mean 'AdvPT'"):
        sweep(["pets"], ["vit_b16"], ["AdvTP"], [-1], [1], ROOT)
