"""Failures without an error in whole runs: each leaves a warning in the record, in the log and in the report."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from advpt import detectors
from advpt.backbones.backbone import ImageEncoder
from advpt.evaluation import record as records
from advpt.evaluation.record import Record
from advpt.results.exhibit import CLEAN, Cell, Metric, Table, TableRow
from advpt.results.groups import groups
from advpt.results.index import RecordIndex, Run
from advpt.results.render import text as text_of
from advpt.results.report import write as write_report
from tests.helpers.records import accuracy
from tests.helpers.workspace import Workspace

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


# --- where they are seen --------------------------------------------------------------------------------------------


def warned(workspace: Workspace, **how) -> tuple[list[str], str]:
    """The warnings in the record of a run with something wrong, and what it printed."""
    printed = workspace.run(*SETTINGS, **how)
    found = records.read(next((how.get("output") or workspace.output).glob("records/*.json")))
    return found.result.warnings, printed


def test_a_sound_run_has_none_and_says_so(workspace: Workspace, tally):
    said, printed = warned(workspace)
    assert not said and "WARNING" not in printed


def test_a_loss_that_does_not_move_is_in_the_record(workspace: Workspace, tally, monkeypatch):
    monkeypatch.setattr("trainers.advpt.PromptTrainer.model_update", lambda self, *a: None)
    said, printed = warned(workspace)
    wrong = not any("training loss did not move" in s for s in said) or f"WARNING {said[0]}" not in printed
    tally("silent failure: loss does not move", 1, wrong=wrong)


def test_a_collapse_is_in_the_record(workspace: Workspace, tally, monkeypatch):
    from trainers.advpt import PromptTrainer

    step = PromptTrainer.forward_backward

    def collapsing(self, batch):
        return step(self, batch) | {"ce_clean": 1.09, "consistency": 0.001}

    monkeypatch.setattr(PromptTrainer, "forward_backward", collapsing)
    said, printed = warned(workspace)
    tally("silent failure: collapse", 1, wrong=not any(s.startswith("epoch 1: tuning collapsed") for s in said))
    assert "WARNING epoch 1: tuning collapsed" in printed


@pytest.mark.parametrize("kind", ["zero", "same"])
def test_rows_of_a_broken_encoder_are_in_the_record(workspace: Workspace, tally, monkeypatch, kind):
    forward = ImageEncoder.forward

    def looks_away(self, pixels):
        seen = forward(self, pixels)
        return seen * 0 if kind == "zero" else seen[:1].detach() * 0 + 1 + seen * 0

    monkeypatch.setattr(ImageEncoder, "forward", looks_away)
    said, printed = warned(workspace)
    what = "have norm 0" if kind == "zero" else "bit by bit"
    mine, tested = [s for s in said if what in s], [s for s in said if s.startswith("bank ") and what in s]
    tally(f"silent failure: embeddings {kind}", 1, wrong=not (tested and mine[0].startswith("training bank")))
    assert any("the attack changed nothing" in s for s in said) or kind == "zero"
    assert "WARNING" in printed


def test_an_attack_that_changes_nothing_is_in_the_record(workspace: Workspace, tally, monkeypatch):
    from advpt.attacks.pgd import PGD

    monkeypatch.setattr(PGD, "run", lambda self, f, x, y, noise: (x, torch.zeros(len(x)), torch.full((len(x),), -1)))
    said, printed = warned(workspace)
    tally(
        "silent failure: attack changes nothing", 1, wrong=not any("gave back every image as it was" in s for s in said)
    )
    assert "WARNING" in printed


def test_robust_above_clean_is_in_the_record(workspace: Workspace, tally, monkeypatch):
    from advpt.evaluation import measure

    answers_of = measure.Answers.of

    def rigged(classifier, bank, chunk=4096):
        answers = answers_of(classifier, bank, chunk)
        attacked = bool(bank.columns["perturbed"].any())
        return dataclasses.replace(answers, correct=torch.ones_like(answers.correct)) if attacked else answers

    monkeypatch.setattr(measure.Answers, "of", rigged)
    said, printed = warned(workspace)
    tally("silent failure: robust above clean", 1, wrong=not any(s.startswith("robust above clean") for s in said))
    assert "WARNING robust above clean" in printed


def test_warnings_stand_in_tables_and_on_the_page(tmp_path):
    text = "the training loss did not move: <script>1</script>"
    result = {
        "split": "test", "dataset": "Pets", "trainer": "AdvPT", "seed": 1, "backbone": {"name": "B"}, "attack": None,
        "images": {"n": 10, "digest": "d"}, "clean": accuracy(torch.arange(10) < 6), "robust": None, "protocol": None,
        "config": {}, "defenses": [], "warnings": [text],
    }  # fmt: skip
    records.write(Record.from_json(result, {}), tmp_path / "run")
    (group,) = groups(RecordIndex().collect([tmp_path / "run"]))
    assert f"WARNING AdvPT, seed 1: {text}" in text_of(group.table())
    run = Run("r", tmp_path / "run", 1, "done", "a run")
    table = Table(
        "t", "T", "about", ("Pets",), (TableRow("B", "AdvPT", "none", "clean", "-", (Cell(("r",), CLEAN, None),)),)
    )
    made = write_report([table], {"r": run}, tmp_path / "report", title="t", about="a")
    assert [(n.kind, n.text) for n in made.notes] == [("warning", f"a run: {text}")]
    page = made.page.read_text()
    assert "warning, see notes" in page and "did not move: &lt;script&gt;" in page and "<script" not in page
    assert "warning, see notes" in (tmp_path / "report/tables/t.md").read_text()


def test_a_table_says_that_tuning_did_nothing(tmp_path):
    text = detectors.idle_tuning(10, "clean", "TRAINER.TAPT")
    result = {
        "split": "test", "dataset": "Digits", "trainer": "TAPTV", "seed": 1, "backbone": {"name": "B"}, "attack": None,
        "images": {"n": 10, "digest": "d"}, "clean": accuracy(torch.arange(10) < 6), "robust": None, "protocol": None,
        "config": {}, "defenses": ["tapt"], "warnings": [text],
    }  # fmt: skip
    records.write(Record.from_json(result, {}), tmp_path / "run")
    row = TableRow("B", "TAPT-V", "tapt", "clean", "-", (Cell(("r",), Metric(None, "", "tapt"), None),))
    run = Run("r", tmp_path / "run", 1, "done", "a run")
    made = write_report(
        [Table("t", "T", "about", ("Digits",), (row,))], {"r": run}, tmp_path / "report", title="t", about="a"
    )
    for path in (made.page, tmp_path / "report/tables/t.md", tmp_path / "report/tables/t.csv"):
        assert "test-time tuning changed no prediction" in path.read_text(), path.name
        assert "warning, see notes" not in path.read_text(), "the words themselves, beside the number"
    (group,) = groups(RecordIndex().collect([tmp_path / "run"]))
    assert f"WARNING TAPTV, seed 1: {text}" in text_of(group.table())
