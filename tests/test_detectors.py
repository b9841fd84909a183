"""Rules that notice what cannot be right: on numbers alone."""

from __future__ import annotations

import json
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from advpt import detectors
from advpt.detectors import LossWatch, bank_rows, collapsed, repeats, stuck

# --- the rules ------------------------------------------------------------------------------------------------------


def test_a_collapse_is_chance_and_agreement_in_every_batch_of_an_epoch():
    """FAP's issue 3: EuroSAT, natural loss 2.27 to 2.30 against ln 10 = 2.3026, adversarial loss 1e-4 to 4e-3."""
    ce, same = [2.27, 2.30, 2.28], [1e-4, 4e-3, 2e-3]
    assert "tuning collapsed" in collapsed(ce, same, 10) and "2.303" in collapsed(ce, same, 10)
    limit = 0.95 * math.log(10)
    assert collapsed([limit + 1e-6], [0.0099], 10) and not collapsed([limit - 1e-6], [0.0099], 10)
    assert not collapsed([limit + 1e-6], [0.0101], 10)
    assert not collapsed([*ce, 1.5], [*same, 1e-3], 10), "one batch that says something"
    assert not collapsed(ce, [*same[:2], 0.5], 10), "one batch where they disagree"
    assert not collapsed([], [], 10) and not collapsed(ce, same[:2], 10) and not collapsed([0.0], [0.0], 1)


def test_a_loss_that_does_not_move():
    assert stuck([3.6, 3.6, 3.6]) and stuck([3.6, 3.6001, 3.5999]) and stuck([0.0, 0.0, 0.0])
    assert not stuck([3.6, 3.59, 3.6]) and not stuck([3.6, 3.6]) and not stuck([])
    assert "OPTIM.LR" in stuck([1.0, 1.0, 1.0]) and not stuck([math.nan, 1.0, 1.0])


def test_rows_that_say_nothing_or_the_same():
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    ids = [f"i{n}" for n in range(6)]
    assert bank_rows(rows, ids) == []
    rows[2], rows[4], rows[5, 1] = 0, rows[1], math.inf
    said = bank_rows(rows, ids)
    assert [x for x in said if "1 of 6 embeddings have norm 0, the first of i2" in x]
    assert [x for x in said if "i4 that of i1" in x] and [x for x in said if "not finite, the first of i5" in x]
    assert len(bank_rows(rows, ids, votes=True)) == 2, "counts of votes may be equal"
    assert len(said) == 3 and bank_rows(torch.zeros(0, 4), []) == []


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 7))
def test_repeats_are_those_of_a_plain_search(values: list[int], at_once: int):
    rows = torch.tensor([[float(v), v * 0.1, -0.0 if v == 3 else 0.0] for v in values]).reshape(len(values), 3)
    expected = [(values.index(v), i) for i, v in enumerate(values) if v in values[:i]]
    before, detectors.ROWS_AT_ONCE = detectors.ROWS_AT_ONCE, at_once
    try:
        assert repeats(rows) == expected
    finally:
        detectors.ROWS_AT_ONCE = before


def test_a_run_that_goes_on_has_seen_what_an_uninterrupted_one_saw():
    whole, first = LossWatch(10), LossWatch(10)
    for watch, epochs in ((whole, 4), (first, 2)):
        for epoch in range(epochs):
            for _ in range(3):
                watch.batch({"loss": 2.3, "ce_clean": 2.3 if epoch else 1.0, "consistency": 0.001, "other": 3})
            watch.epoch_over()
    again = LossWatch(10)
    again.go_on(json.loads(json.dumps(first.state())), 2)
    for _ in range(2):
        for _ in range(3):
            again.batch({"loss": 2.3, "ce_clean": 2.3, "consistency": 0.001})
        again.epoch_over()
    assert again == whole and len(whole.warnings()) == 2 and whole.warnings()[1].startswith("epoch 2: tuning collapsed")
    earlier = LossWatch(10)
    earlier.go_on(first.state(), 1)
    assert earlier.collapse == (0, "") and len(earlier.epochs) == 1, "what lies behind the checkpoint is forgotten"
    watch = LossWatch(10)
    watch.batch(None)
    watch.epoch_over()
    assert watch.warnings() == []
