"""Our own learning rates against the reference table of Dassl's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from advpt.errors import ConfigError
from advpt.tuning.schedule import step_schedule, warmup_cosine, warmup_schedule
from tests.helpers.fine_tuning import example


def optim(**changes):
    settings = {
        "LR": 0.002, "MAX_EPOCH": 5, "LR_SCHEDULER": "cosine", "STEPSIZE": (-1,), "GAMMA": 0.1, "WARMUP_EPOCH": -1,
        "WARMUP_TYPE": "constant", "WARMUP_CONS_LR": 1e-5, "WARMUP_MIN_LR": 1e-5, "WARMUP_RECOUNT": True,
    }  # fmt: skip
    return SimpleNamespace(**(settings | changes))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (optim(), [0.002, 0.00180902, 0.00130902, 0.000690983, 0.000190983]),
        (optim(WARMUP_EPOCH=1), [1e-5, 0.002, 0.00180902, 0.00130902, 0.000690983]),
        (optim(WARMUP_EPOCH=2), [1e-5, 1e-5, 0.002, 0.00180902, 0.00130902]),
        (optim(WARMUP_EPOCH=2, WARMUP_TYPE="linear"), [1e-5, 0.001, 0.002, 0.00180902, 0.00130902]),
        (optim(WARMUP_EPOCH=3, WARMUP_TYPE="linear"), [1e-5, 0.000666667, 0.00133333, 0.002, 0.00180902]),
        (optim(WARMUP_EPOCH=1, LR_SCHEDULER="single_step"), [1e-5, 0.002, 0.002, 0.002, 0.002]),
        (optim(STEPSIZE=(2,), LR_SCHEDULER="single_step"), [0.002, 0.002, 0.0002, 0.0002, 2e-05]),
        (optim(STEPSIZE=(2, 4), LR_SCHEDULER="multi_step"), [0.002, 0.002, 0.0002, 0.0002, 2e-05]),
    ],
)
def test_reference_table(settings, expected):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.LR)
    schedule, seen = warmup_schedule(optimizer, settings), []
    for _ in expected:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "bad",
    [{"LR_SCHEDULER": "poly"}, {"WARMUP_EPOCH": 1, "WARMUP_TYPE": "odd"}, {"WARMUP_EPOCH": 1, "WARMUP_RECOUNT": False}],
)
def test_what_it_cannot_do_is_said(bad):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ConfigError):
        warmup_schedule(optimizer, optim(**bad))


def rates(warmup, total, base=1.0, steps=None):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    schedule, measured = step_schedule(optimizer, warmup, total), []
    for _ in range(total if steps is None else steps):
        measured.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return measured


def test_a_warm_up_by_steps_and_a_cosine():
    given, made = example("warmup_cosine")
    assert rates(given["warmup"], given["total"], given["base"]) == pytest.approx(made["rates"].tolist(), abs=1e-6)
    assert rates(1000, 20000, 1e-5)[:2] == pytest.approx([1e-8, 2e-8]), "the first rate is not 0"


def test_a_schedule_by_steps_ends_at_0_and_stays_there():
    measured = rates(2, 6, steps=9)
    assert measured[:2] == [0.5, 1.0] and measured[2] == 1.0, "the cosine begins where the warm-up ends"
    assert all(later < earlier for earlier, later in zip(measured[2:], measured[3:7])) and measured[6:] == [0, 0, 0]
    assert rates(0, 4)[0] == 1.0 and warmup_cosine(4, 0, 4) == 0
