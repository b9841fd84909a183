"""Training curves: from records, a line for each accuracy, means over seeds."""

from __future__ import annotations

import pytest

from advpt.cli import main
from advpt.evaluation import record as records
from advpt.results.training_curves import training_curves
from tests.helpers.reports import put


def curve(*accuracies: float) -> dict:
    def part(accuracy: float) -> dict:
        return {"accuracy": accuracy, "correct": 0, "n": 10, "interval95": [0, 100]}

    threat = {"protocol": "transfer", "attack": "pgd2@8"}
    points = [
        threat | {"epoch": 2 * k, "clean": part(a), "robust": part(a / 2) | {"untouched": 0.0}}
        for k, a in enumerate(accuracies, start=1)
    ]
    return {"curve": points}


def test_a_line_for_each_accuracy_over_epochs(tmp_path):
    made = [put(tmp_path / f"{s}", 80, 51, seed=s, training=curve(30.0, 50.0 + 2 * s)) for s in (1, 2)]
    made.append(put(tmp_path / "shots", 80, 51, shots=4, training=curve(20.0)))
    figure, points = training_curves([records.read(path) for path in made])
    drawn = {(p.series, p.x[0]): p.y.interval.mean for p in points}
    assert drawn == pytest.approx({
        ("AdvPT, clean", 2.0): 30, ("AdvPT, clean", 4.0): 53, ("AdvPT, pgd2@8, transfer", 2.0): 15,
        ("AdvPT, pgd2@8, transfer", 4.0): 26.5, ("AdvPT, 4 shots, clean", 2.0): 20,
        ("AdvPT, 4 shots, pgd2@8, transfer", 2.0): 10,
    })  # fmt: skip
    assert {p.panel for p in points} == {"OxfordPets, ViT-B/16"} and (figure.x, figure.kind) == ("epoch", "lines")


def test_a_page_has_curves_where_runs_have_them(tmp_path, capsys):
    put(tmp_path / "runs" / "one", 80, 51)
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "runs"), "--page", str(page)]) == 0
    assert "training_curves" not in page.read_text()
    put(tmp_path / "runs" / "two", 80, 51, seed=2, training=curve(30.0, 50.0))
    assert main(["report", str(tmp_path / "runs"), "--page", str(page)]) == 0
    assert 'id="training_curves"' in page.read_text() and (tmp_path / "figures" / "training_curves.csv").is_file()
