"""Sentences on what survives, and its table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from advpt.results import survival_text
from advpt.results.published import defense_cell, number
from advpt.results.survival import LOSES, REFERENCE
from tests.helpers.benchmark import Made, nothing_run, survival, survivors

CELLS = (
    ("T-VSS, 2026 table 1", "ViT-B/16", "Flowers", "CLIP", "PGD-100, step eps/4", "4"),
    ("T-VSS, 2026 table 1", "ViT-B/16", "Flowers", "R-TPT", "PGD-100, step eps/4", "4"),
)


@pytest.fixture
def made(tmp_path) -> Made:
    return survivors(tmp_path)


def test_sentences_name_who_keeps_the_gain_and_end_with_what_is_not_claimed(made):
    text = survival_text.sentences(survival(made))
    assert text[0].startswith("As its authors measure it, 4 of 5 have a gain over the same without it.")
    assert "1 of 4 keeps one that chance does not explain: over CLIP, hand-written: mean (+40.0 of +50" in text[0]
    assert "0, +25.9 to +54.1). In brackets: points against this attacker of those as published" in text[0]
    lost, worse, nothing, last = text[1:]
    assert lost.startswith(
        "The gain is lost to an attacker who knows the method: over CLIP, hand-written: AdvPT (-2.0 of +"
    )
    assert "ttc (-4.0 of +70.0, -" in lost
    assert worse.startswith(
        "Worse with it than without, against an attacker who knows it: over CLIP, hand-written: weak (-24.0 of +"
    )
    assert nothing == "No gain by either measure that chance does not explain: over CLIP, hand-written: hedge."
    assert last.startswith("Nothing is claimed beyond DemoCLIP, Digits, 50 of its images, pgd20-ce@4 and the attacks")
    assert "5 rows were looked at" in last and "about 0.25 of 5 adaptive intervals would leave 0 out by chance" in last


def test_csv_markdown_and_latex(made):
    made.rows[0] = dataclasses.replace(made.rows[0], static=defense_cell(*CELLS[0]))
    made.rows[1] = dataclasses.replace(made.rows[1], static=defense_cell(*CELLS[1]))
    gain = number(made.rows[1].static) - number(made.rows[0].static)
    content = survival(made)
    rows = {r["defense"] + r["prompt"]: r for r in csv.DictReader(io.StringIO(survival_text.comma_separated(content)))}
    ttc = rows["ttchand-written"]
    assert (ttc["gain"], ttc["adaptive_gain"], ttc["taken"], ttc["outcome"]) == ("70.00", "-4.00", "74.00", LOSES)
    assert (ttc["accuracy"], ttc["adaptive_accuracy"], ttc["over_accuracy"]) == ("80.00", "26.00", "10.00")
    assert len(ttc["records"].split()) == 4 and ttc["paper_gain"] == "" and ttc["images"] == "50"
    assert rows["meanhand-written"]["paper_gain"] == f"{gain:.2f}"
    assert rows["nonehand-written"]["outcome"] == REFERENCE and rows["nonehand-written"]["gain"] == ""
    text = survival_text.text(content)
    assert "+70.0 [" in text and f"{gain:+.1f}" in text and text.index("lost to an attacker") < text.index("| method")
    assert r"\toprule" in survival_text.latex(content) and "80.0, 26.0" in survival_text.latex(content)


def test_nothing_is_said_before_anything_is_measured(made):
    assert survival_text.sentences(nothing_run(made)) == [
        "No row has both gains yet, so that nothing can be said of what survives."
    ]
