"""The order of a bank's batches."""

from __future__ import annotations

import pytest
import torch

from advpt.bank.store import Bank
from advpt.tuning.loader import BankLoader


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
