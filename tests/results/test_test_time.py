"""Tables of defenses at test time, from hand-made records: numbers, sentences, parts, flags and cost."""

from __future__ import annotations

import csv
import html
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advpt.cli import main
from advpt.results.exhibit import DefenseRow, DefenseTable, PartTable
from advpt.results.index import RecordIndex, Run
from advpt.results.published import defense_cell
from advpt.results.report import write
from advpt.results.test_time import fill_defenses, fill_parts
from tests.helpers.records import write_defended

STATIC_HITS = {"": 35, "mean": 60, "anti": 41, "pure": 40, "weak": 20}
ADAPTIVE_HITS = {"": 35, "mean": 56, "anti": 36, "pure": 32, "weak": 12}
COST = {"forward": 64, "backward": 0, "text_forward": 2, "text_backward": 1}


def first(hits: int, n: int = 100) -> Tensor:
    return torch.arange(n) < hits


def part(name: str, hits: int, n: int = 100, **more) -> dict:
    return {"name": name, "accuracy": 100 * hits / n, "n": n, "correct": hits, "attack": "pgd20-ce@2/a0.25", **more}


PARTS = {
    "mean": [part("static", 60), part("mean of views, ce", 58, gradient=0.9)],
    "anti": [part("static", 36), part("frozen delta, ce", 44), part("Square", 30, 36, left=True)],
    "pure": [part("static", 40), part("released, ce", 58, gradient=3e-9), part("exact, ce", 32, left=True)],
}
FLAGS = {"anti": ["adaptive weaker than static"], "pure": ["gradient vanishes", "depends on batch"]}


class Defended:
    """A run with records of no defense and four defenses; ``static`` of 200 images, the rest of 100."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.runs = {"run": Run("run", top / "run", 1, "done", "test time")}
        for name, hits in STATIC_HITS.items():
            folder, more = top / "run", {"cost": COST, "milliseconds": 44.04} if name == "mean" else {}
            write_defended(folder, name, "static", first(116, 200), first(2 * hits, 200), **more)
            write_defended(folder, name, "pseudo", first(58), first(hits))
            robust = first(ADAPTIVE_HITS[name])
            about = {"parts": PARTS.get(name, ()), "flags": FLAGS.get(name, ())}
            write_defended(folder, name, "adaptive", first(58), robust, **about, **more)

    def table(self) -> DefenseTable:
        about = ("T-VSS, 2026 table 1", "ViT-B/16", "Flowers", "R-TPT")
        papers = (defense_cell(*about), defense_cell(*about, "PGD-100, step eps/4", "4"))
        rows = tuple(DefenseRow(name or "none", name, "run") for name in STATIC_HITS if name != "mean")
        rows = (rows[0], DefenseRow("mean", "mean", "run", *papers), *rows[1:])
        return DefenseTable("defended", "Defended", "About it.", "DemoCLIP", "Digits", "pgd20-ce@2", 200, 100, rows)

    def filled(self):
        return fill_defenses(self.table(), RecordIndex(self.runs))

    def report(self) -> str:
        parts = PartTable("defended_parts", "Its parts", "About them.", self.table())
        write([self.table(), parts], self.runs, self.top / "report", title="t", about="a", top=self.top)
        return html.unescape((self.top / "report" / "index.html").read_text())


@pytest.fixture
def defended(tmp_path) -> Defended:
    return Defended(tmp_path)


def test_each_number_is_of_its_record_and_its_images(defended):
    filled = defended.filled()
    assert filled.table.columns == (
        "clean, 200 images", "static, 200 images", "clean, 100 of them", "static, 100 of them", "pseudo, 100 of them",
        "adaptive, 100 of them",
    )  # fmt: skip
    shown = {row.defense: [v.mean_text for v in line] for row, line in zip(filled.table.rows, filled.values)}
    assert shown["mean"] == ["58.0", "60.0", "58.0", "60.0", "60.0", "56.0"]
    assert shown["anti"] == ["58.0", "41.0", "58.0", "36.0", "41.0", "36.0"], "the static part is of the 100 images"
    assert shown["none"][3] == "n/a", "no parts, no static images among them"
    assert [v.runs.images for v in filled.values[1] if v.runs] == [200, 200, 100, 100, 100, 100]
    published = filled.values[1]
    assert [v.paper for v in published] == [68.7, 44.6, None, None, None, None]


def test_what_survives_is_what_the_paired_intervals_say(defended):
    text = defended.filled().sentences
    assert "Without a defense 58.0 % of the images are right clean and 35.0 % under pgd20-ce@2" in text[0]
    adaptive, static = text[1:3]
    assert adaptive.startswith("Against an attacker who knows the defense (adaptive), 1 of 4 defenses keep a gain")
    assert "mean (+21.0 points, +12.9 to +29.1)" in adaptive
    assert "Worse than no defense: weak (-23.0 points" in adaptive
    assert "For 2 the 95 % interval of the difference contains 0: nothing is claimed of them." in adaptive
    assert static.startswith("Against an attacker who does not know the defense (static), 3 of 4 defenses")


def test_nothing_is_claimed_where_all_intervals_contain_0(tmp_path):
    for name in ("", "mean"):
        write_defended(tmp_path / "run", name, "adaptive", first(58), first(35 + len(name) // 4))
    runs = {"run": Run("run", tmp_path / "run", 1, "done")}
    rows = tuple(DefenseRow(name or "none", name, "run") for name in ("", "mean", "tte"))
    table = DefenseTable("t", "T", "", "DemoCLIP", "Digits", "pgd20-ce@2", 0, 100, rows)
    filled = fill_defenses(table, RecordIndex(runs))
    (text,) = filled.sentences
    assert "none of 1 defenses keeps a gain" in text and "Without a number yet: tte." in text
    assert filled.values[1][0].state == "missing" and filled.table.columns[0] == "clean, all images"


def test_a_weak_attack_and_a_gradient_of_nothing_are_told_with_their_numbers(defended):
    masked, vanished = defended.filled().sentences[3:]
    weak = "anti through frozen delta, ce (44.0 %, 36.0 %, and no gradient of its own is stronger than they are)"
    assert f"masked or noisy: {weak}; pure through released, ce (58.0 %, 40.0 %). The" in masked
    assert "Square" not in masked, "which is on some of the images only"
    assert "pure (clean 58.0 %; released, ce: 58.0 %; the worst of all parts 32.0 %)" in vanished
    assert vanished.endswith("the undefended model has 35.0 %.")
    assert "has no direction" in vanished and "mean" not in masked + vanished


def test_more_right_attacked_than_clean_is_told(tmp_path):
    for name, hits in (("", 30), ("dbd", 70)):
        flags = ("robust above clean",) if hits == 70 else ()
        write_defended(tmp_path / "run", name, "static", first(58), first(hits), flags=flags)
    runs = {"run": Run("run", tmp_path / "run", 1, "done")}
    rows = (DefenseRow("none", "", "run"), DefenseRow("dbd", "dbd", "run"))
    filled = fill_defenses(
        DefenseTable("t", "T", "", "DemoCLIP", "Digits", "pgd20-ce@2", 100, 50, rows), RecordIndex(runs)
    )
    assert "carry their label, for: dbd (static 70.0 %, clean 58.0 %)." in filled.sentences[-1]


def test_page_text_and_csv_have_flags_sentences_parts_and_cost(defended):
    page = defended.report()
    for shown in ("adaptive weaker than static", "depends on batch", "1 of 4 defenses keep a gain", "64 F, 2 f, 1 b",
                  "released, ce", "3e-09", "Cost per image: F and B", "mean - none"):  # fmt: skip
        assert shown in page, shown
    tables = defended.top / "report" / "tables"
    text = (tables / "defended.md").read_text()
    assert "36.0 [27.3, 45.8] (adaptive weaker than static)" in text and "| 64 F, 2 f, 1 b | 44 " in text
    assert text.index("keep a gain") < text.index("| defense"), "sentences stand above the table"
    assert "58.0 [51.1, 64.6]; paper 68.7, -10.7" in text and "**" not in text
    with (tables / "defended.csv").open() as file:
        lines = {(r["defense"], r["protocol"], r["images"]): r for r in csv.DictReader(file)}
    mean = lines["mean", "adaptive", "100"]
    assert (mean["dataset"], mean["ours"], mean["passes"], mean["ms"]) == ("Digits", "56.00", "64 F, 2 f, 1 b", "44.04")
    assert lines["anti", "adaptive", "100"]["notes"] == "adaptive weaker than static"


def test_every_part_has_its_line(defended):
    filled = fill_parts(PartTable("p", "P", "", defended.table()), RecordIndex(defended.runs))
    assert len(filled.lines) == sum(map(len, PARTS.values())) and not filled.absent
    cells = [line.cells for line in filled.lines]
    assert ("anti", "Square", "30", "36 still right", "83.3", "[68.1, 92.1]", "") in cells
    assert ("mean", "mean of views, ce", "58", "all 100", "58.0", "[48.2, 67.2]", "0.9") in cells
    assert "Square" in filled.comma_separated() and "| anti" in filled.text()
    gone = {"run": Run("run", defended.top / "none", 1, "not run")}
    assert fill_parts(filled.table, RecordIndex(gone)).absent == {row.name: "not run" for row in defended.table().rows}


def test_advpt_report_shows_flags_and_cost(defended, capsys):
    assert main(["report", str(defended.top / "run")]) == 0
    shown = capsys.readouterr().out
    assert "(adaptive weaker than static)" in shown and "64 F, 2 f, 1 b" in shown and "Cost per image" in shown
