"""Our own learning rates against the reference table of Dassl's, and the order of a bank's batches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from advpt.bank.store import Bank
from advpt.errors import ConfigError
from advpt.tuning.loader import BankLoader
from advpt.tuning.schedule import warmup_schedule


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


def bank(n: int) -> Bank:
    columns = {"embeddings": torch.arange(n * 2.0).view(n, 2), "label": torch.arange(n)}
    return Bank("k", tuple(map(str, range(n))), columns, {})


def test_every_row_once_an_epoch_in_an_order_of_seed_and_epoch():
    loader = BankLoader(bank(12), batch_size=4, seed=3)
    first = torch.cat([batch["label"] for batch in loader])
    assert sorted(first.tolist()) == list(range(12)) and len(loader) == 3
    assert torch.equal(first, torch.cat([batch["label"] for batch in loader]))
    loader.epoch = 1
    assert not torch.equal(first, torch.cat([batch["label"] for batch in loader]))
    other = BankLoader(bank(12), batch_size=4, seed=4)
    assert not torch.equal(first, torch.cat([batch["label"] for batch in other]))
    for batch in loader:
        assert torch.equal(batch["img"][:, 0] / 2, batch["label"].float()), "embeddings and labels belong together"


@pytest.mark.parametrize(
    ("n", "size", "batches", "rows"), [(10, 4, 2, 8), (10, 10, 1, 10), (10, 11, 1, 10), (3, 100, 1, 3)]
)
def test_incomplete_batches_are_dropped_as_dassl_drops_them(n, size, batches, rows):
    loader = BankLoader(bank(n), batch_size=size, seed=0)
    found = list(loader)
    assert len(found) == len(loader) == batches and sum(len(b["label"]) for b in found) == rows
