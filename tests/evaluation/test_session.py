"""The session of an evaluation in whole runs: result lines, the card of threats, records."""

from __future__ import annotations

import json
import re

import pytest

from advpt.evaluation import record as records
from tests.helpers.records import outcome
from tests.helpers.workspace import parse_as_coop, results


def test_results_lines_are_found_by_coops_parser(workspace):
    workspace.run()
    log, found = workspace.output / "log.txt", results(workspace.output)
    first = found["test_transfer_pgd2-fkl@8-a5.json"]
    assert parse_as_coop(log, "accuracy") == round(first["clean"]["accuracy"], 1)
    assert parse_as_coop(log, "robust_accuracy") == round(first["robust"]["accuracy"], 1)
    workspace.run(flags=("--eval-only", "--model-dir", str(workspace.output)), output=workspace.folder / "eval")
    assert parse_as_coop(workspace.folder / "eval" / "log.txt", "accuracy", "=> result") == round(
        first["clean"]["accuracy"], 1
    )


def test_the_log_holds_the_threat_card(workspace):
    printed = workspace.run()
    assert "attacker knows everything, the learned prompt included" in printed
    assert printed.count("adaptive     pgd2-ce@8") == 1  # fkl becomes ce, which was asked for too: one threat
    assert "objective fkl replaced by ce" in printed
    assert re.search(r"transfer +pgd2-fkl@8/a5 +robust \d", printed)


def test_the_record_can_be_recomputed(workspace):
    workspace.run()
    for result in results(workspace.output).values():
        for part in (result["clean"], result["robust"]):
            assert outcome(part).sum() == part["correct"] and len(outcome(part)) == part["n"] == 12
            assert part["accuracy"] == pytest.approx(100 * part["correct"] / 12)
        assert result["config"]["TRAINER.ADVPT.N_CTX"] == 4 and "MODEL.WEIGHTS" not in result["config"]


def test_an_edited_record_is_refused(workspace):
    workspace.run()
    path = next((workspace.output / "records").glob("*.json"))
    data = json.loads(path.read_text())
    data["result"]["clean"]["accuracy"] = 99.0
    path.write_text(json.dumps(data))
    with pytest.raises(records.RecordError, match="changed after it was written"):
        records.read(path)
