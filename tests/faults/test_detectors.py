"""Failures without an error: each leaves a warning in the record, in the log and in the report."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_world import World

from advpt import detectors
from advpt.backbones.clip import ImageEncoder
from advpt.detectors import LossWatch, bank_rows, collapsed, evaluation, repeats, stuck
from advpt.evaluation import record as records
from advpt.evaluation.record import Record, accuracy
from advpt.results.collect import collect
from advpt.results.index import Run
from advpt.results.layout import CLEAN, Cell, Metric, Row, Table
from advpt.results.report import write as write_report
from advpt.results.table import groups, render

# a batch size that divides the 15 images: epochs see the same ones, and their losses compare
SETTINGS = (
    "OPTIM.MAX_EPOCH",
    "4",
    "DATALOADER.TRAIN_X.BATCH_SIZE",
    "5",
    "EVAL.ATTACKS",
    "('pgd2-ce@8',)",
    "EVAL.PROTOCOLS",
    "('transfer',)",
)

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


def test_what_cannot_be_right_about_an_attack():
    clean, worse, better = (accuracy(torch.arange(10) < n) for n in (6, 3, 8))
    assert evaluation(clean, worse | {"untouched": 0.0, "largest_linf": 8.0}, "pgd") == []
    assert "robust above clean: 80.00 % under pgd, 60.00 %" in evaluation(clean, better, "pgd")[0]
    (said,) = evaluation(clean, clean | {"untouched": 100.0}, "pgd")
    assert "changed nothing: pgd gave back every image" in said
    assert "gave back" in evaluation(clean, worse | {"largest_linf": 0.0}, "pgd")[0]
    assert "as well or badly as without" in evaluation(clean, clean | {"untouched": 0.0}, "pgd")[0]
    nothing = accuracy(torch.zeros(10).bool())
    assert evaluation(nothing, nothing, "pgd") == [], "there was nothing to break"
    assert evaluation(accuracy(torch.zeros(0).bool()), accuracy(torch.zeros(0).bool()), "pgd") == []


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


# --- where they are seen --------------------------------------------------------------------------------------------


def warned(world: World, **how) -> tuple[list[str], str]:
    """The warnings in the record of a run with something wrong, and what it printed."""
    printed = world.run(*SETTINGS, **how)
    found = records.read(next((how.get("output") or world.output).glob("records/*.json")))
    return found.result["warnings"], printed


def test_a_sound_run_has_none_and_says_so(world: World, tally):
    said, printed = warned(world)
    assert said == [] and "WARNING" not in printed


def test_a_loss_that_does_not_move_is_in_the_record(world: World, tally, monkeypatch):
    monkeypatch.setattr("trainers.advpt.PromptTrainer.model_update", lambda self, *a: None)
    said, printed = warned(world)
    wrong = not any("training loss did not move" in s for s in said) or f"WARNING {said[0]}" not in printed
    tally("silent failure: loss does not move", 1, wrong=wrong)


def test_a_collapse_is_in_the_record(world: World, tally, monkeypatch):
    from trainers.advpt import PromptTrainer

    step = PromptTrainer.forward_backward

    def collapsing(self, batch):
        return step(self, batch) | {"ce_clean": 1.09, "consistency": 0.001}

    monkeypatch.setattr(PromptTrainer, "forward_backward", collapsing)
    said, printed = warned(world)
    tally("silent failure: collapse", 1, wrong=not any(s.startswith("epoch 1: tuning collapsed") for s in said))
    assert "WARNING epoch 1: tuning collapsed" in printed


@pytest.mark.parametrize("kind", ["zero", "same"])
def test_rows_of_a_broken_encoder_are_in_the_record(world: World, tally, monkeypatch, kind):
    forward = ImageEncoder.forward

    def looks_away(self, pixels):
        seen = forward(self, pixels)
        return seen * 0 if kind == "zero" else seen[:1].detach() * 0 + 1 + seen * 0

    monkeypatch.setattr(ImageEncoder, "forward", looks_away)
    said, printed = warned(world)
    what = "have norm 0" if kind == "zero" else "bit by bit"
    mine, tested = [s for s in said if what in s], [s for s in said if s.startswith("bank ") and what in s]
    tally(f"silent failure: embeddings {kind}", 1, wrong=not (tested and mine[0].startswith("training bank")))
    assert any("the attack changed nothing" in s for s in said) or kind == "zero"
    assert "WARNING" in printed


def test_an_attack_that_changes_nothing_is_in_the_record(world: World, tally, monkeypatch):
    from advpt.attacks.pgd import PGD

    monkeypatch.setattr(PGD, "run", lambda self, f, x, y, noise: (x, torch.zeros(len(x)), torch.full((len(x),), -1)))
    said, printed = warned(world)
    tally(
        "silent failure: attack changes nothing", 1, wrong=not any("gave back every image as it was" in s for s in said)
    )
    assert "WARNING" in printed


def test_robust_above_clean_is_in_the_record(world: World, tally, monkeypatch):
    from advpt.attacks.pgd import PGD
    from advpt.evaluation import evaluator

    predict = evaluator.predict

    def rigged(classifier, bank, **how):
        found = predict(classifier, bank, **how)
        return bank.labels if bool(bank.columns["perturbed"].any()) else found

    assert PGD.name
    monkeypatch.setattr(evaluator, "predict", rigged)
    said, printed = warned(world)
    tally("silent failure: robust above clean", 1, wrong=not any(s.startswith("robust above clean") for s in said))
    assert "WARNING robust above clean" in printed


def test_warnings_stand_in_tables_and_on_the_page(tmp_path):
    text = "the training loss did not move: <script>1</script>"
    result = {
        "split": "test", "dataset": "Pets", "trainer": "AdvPT", "seed": 1, "backbone": {"name": "B"}, "attack": None,
        "images": {"n": 10, "digest": "d"}, "clean": accuracy(torch.arange(10) < 6), "robust": None, "protocol": None,
        "config": {}, "defenses": [], "warnings": [text],
    }  # fmt: skip
    records.write(Record(result, {}), tmp_path / "run")
    (group,) = groups(collect([tmp_path / "run"]))
    assert f"WARNING AdvPT, seed 1: {text}" in render(group)
    run = Run("r", tmp_path / "run", 1, "done", "a run")
    table = Table(
        "t", "T", "about", ("Pets",), (Row("B", "AdvPT", "none", "clean", "-", (Cell(("r",), CLEAN, None),)),)
    )
    made = write_report([table], {"r": run}, tmp_path / "report", title="t", about="a")
    assert [(n.kind, n.text) for n in made.notes] == [("warning", f"a run: {text}")]
    page = made.page.read_text()
    assert "warning, see notes" in page and "did not move: &lt;script&gt;" in page and "<script" not in page
    assert "warning, see notes" in (tmp_path / "report/tables/t.md").read_text()


def test_a_table_says_that_tuning_did_nothing(tmp_path):
    text = detectors.idle_tuning(10, "clean")
    result = {
        "split": "test", "dataset": "Digits", "trainer": "TAPTV", "seed": 1, "backbone": {"name": "B"}, "attack": None,
        "images": {"n": 10, "digest": "d"}, "clean": accuracy(torch.arange(10) < 6), "robust": None, "protocol": None,
        "config": {}, "defenses": ["tapt"], "warnings": [text],
    }  # fmt: skip
    records.write(Record(result, {}), tmp_path / "run")
    row = Row("B", "TAPT-V", "tapt", "clean", "-", (Cell(("r",), Metric(None, "", "tapt"), None),))
    run = Run("r", tmp_path / "run", 1, "done", "a run")
    made = write_report(
        [Table("t", "T", "about", ("Digits",), (row,))], {"r": run}, tmp_path / "report", title="t", about="a"
    )
    for path in (made.page, tmp_path / "report/tables/t.md", tmp_path / "report/tables/t.csv"):
        assert "test-time tuning changed no prediction" in path.read_text(), path.name
        assert "warning, see notes" not in path.read_text(), "the words themselves, beside the number"
    (group,) = groups(collect([tmp_path / "run"]))
    assert f"WARNING TAPTV, seed 1: {text}" in render(group)
