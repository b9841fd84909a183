"""Tables of fine-tuned towers from hand-made records: numbers, seconds, stacks, and sentences that rank nobody."""

from __future__ import annotations

import csv
import dataclasses
import html
from pathlib import Path

import numpy as np
import pytest
import torch

from advpt.evaluation import record as records
from advpt.evaluation.record import Record
from advpt.results.exhibit import CLEAN, DefenseRow, DefenseTable, Stack, StackTable, TowerRow, TowerTable, robust
from advpt.results.index import RecordIndex, Run
from advpt.results.published_towers import Difference, TowerPlace, tower_number
from advpt.results.report import write
from advpt.results.towers import fill_stacks, fill_towers
from tests.helpers.records import accuracy, write_defended

N = 200
COLUMNS = (("clean", CLEAN), ("untuned, 4/255", robust("pgd20-ce@4", "untuned")),
           ("adaptive, 4/255", robust("pgd20-ce@4", "adaptive")))  # fmt: skip
# Images that are right of the first 200, by method and column; seeds differ a little.
HITS = {"CLIP": (116, 26, 26), "TeCoA": (180, 150, 120), "FARE": (116, 70, 52), "PMG-AFT": (181, 149, 118)}


def write_tower(folder: Path, method: str, seed: int) -> None:
    """The records of a run: hits are the first images, with a few others for each seed."""

    def part(hits: int) -> torch.Tensor:
        right = np.arange(N) < hits
        moved = np.random.default_rng(seed).choice(N, 4, replace=False)
        right[moved] ^= method != "CLIP"
        return torch.from_numpy(right)

    for (_, metric), hits in zip(COLUMNS[1:], HITS[method][1:]):
        result = {
            "split": "test", "dataset": "Digits", "trainer": "ZeroshotCLIP" if method == "CLIP" else "FARE",
            "seed": seed, "backbone": {"name": "DemoCLIP"}, "images": {"n": N, "digest": "d"}, "config": {},
            "clean": accuracy(part(HITS[method][0])), "robust": accuracy(part(hits)) | {"untouched": 0.0},
            "protocol": metric.protocol, "defenses": [], "attack": {"spec": metric.attack, "asked": metric.attack},
            "training": {}, "comparable": True, "trained": method != "CLIP",
        }  # fmt: skip
        times = {"before": 0.0, "epochs": [10.0 * seed, 5.0]}
        records.write(Record.from_json(result, {"training": times} if method != "CLIP" else {}), folder)


class Towers:
    def __init__(self, top: Path, seeds=(1, 2, 3)) -> None:
        self.top, self.runs, rows = top, dict[str, Run](), []
        for method in HITS:
            ids = []
            for seed in seeds if method != "CLIP" else (1,):
                name = f"{method}{seed}"
                write_tower(top / name, method, seed)
                self.runs[name] = Run(name, top / name, seed, "done", name)
                ids.append(name)
            rows.append(TowerRow(method, tuple(ids)))
        about = ("towers", "Towers", "About towers.", "DemoCLIP", "Digits")
        self.table = TowerTable(*about, COLUMNS, tuple(rows))

    def filled(self):
        return fill_towers(self.table, RecordIndex(self.runs))


@pytest.fixture
def towers(tmp_path) -> Towers:
    return Towers(tmp_path)


def test_each_number_has_its_interval_and_each_row_its_seconds(towers):
    filled = towers.filled()
    assert filled.table.columns == tuple(head for head, _ in COLUMNS) and not filled.bold
    assert [row.method for row in filled.table.rows] == list(HITS)
    assert [value.mean_text for value in filled.values[0]] == ["58.0", "13.0", "13.0"]
    assert [value.seeds for value in filled.values[1]] == [(1, 2, 3)] * 3
    assert filled.extra == {"training (s)": ["-", "25", "25", "25"]}, "the mean of 15, 25 and 35 seconds"
    assert not any(value.better for line in filled.values for value in line)


def test_what_can_be_told_apart_is_what_paired_intervals_say_and_nobody_is_ranked_by_chance(towers):
    clean, untuned, adaptive = towers.filled().sentences
    assert clean.startswith("clean: above CLIP: ") and "not told from CLIP: FARE" in clean
    assert adaptive.startswith("adaptive, 4/255: above CLIP: TeCoA (+") and "FARE (+1" in adaptive
    told = adaptive.partition("Of the tuned ones ")[2]
    assert "TeCoA above FARE (+" in told and "PMG-AFT above FARE (+" in told
    assert "TeCoA above PMG-AFT" not in adaptive and "PMG-AFT above TeCoA" not in adaptive
    assert adaptive.endswith("Not told apart: TeCoA and PMG-AFT.")
    assert "FARE above" not in adaptive and untuned.startswith("untuned, 4/255: ")


def test_a_difference_below_zero_is_told_as_it_is(towers, monkeypatch):
    monkeypatch.setitem(HITS, "FARE", (60, 70, 52))
    clean = Towers(towers.top / "two").filled().sentences[0]
    assert "; below CLIP: FARE (-2" in clean


def test_one_seed_tells_nothing_apart(tmp_path):
    filled = Towers(tmp_path, seeds=(1,)).filled()
    assert "images only" in filled.values[1][0].interval_text
    for text in filled.sentences:
        assert "above" not in text and "not told from CLIP: TeCoA, FARE, PMG-AFT." in text
        assert "Not told apart: TeCoA and FARE; TeCoA and PMG-AFT; FARE and PMG-AFT." in text
    assert any("at least 3 seeds of each tuned tower" in text for text in filled.below)


def test_runs_that_are_not_there_leave_words_and_no_sentence(towers):
    runs = {
        name: dataclasses.replace(run, folder=towers.top / "none", state="not run") for name, run in towers.runs.items()
    }
    filled = fill_towers(towers.table, RecordIndex(runs))
    assert {value.state for line in filled.values for value in line} == {"not run"} and not filled.sentences
    assert filled.extra["training (s)"] == ["-"] * 4 and not filled.comparisons


def test_published_numbers_stand_with_source_and_attack_and_what_differs(towers):
    assert towers.filled().below[-1] == "No source prints numbers of these methods on Digits."
    place = TowerPlace("TeCoA", "ViT-B/32", "TinyImageNet eps1", "OxfordPets", "1", "PGD-100")
    printed = (
        tower_number(dataclasses.replace(place, attack="", eps="")),
        Difference(None, "no source has this attacker"),
        tower_number(dataclasses.replace(place, attack="PGD-10")),
    )
    rows = tuple(dataclasses.replace(row, published=printed) for row in towers.table.rows)
    filled = fill_towers(dataclasses.replace(towers.table, rows=rows), RecordIndex(towers.runs))
    assert [value.paper for value in filled.values[1]] == [66.15, None, None]
    assert "TeCoA, clean: 66.2 (TGA-ZSR NeurIPS'24 paper text, clean)" in filled.below[-1]
    assert (
        "TeCoA, adaptive, 4/255: none, 36.4 (TGA-ZSR NeurIPS'24 paper text, PGD-100 at 1/255) differs"
        in filled.below[-1]
    )
    assert "untuned" not in filled.below[-1]


@pytest.mark.parametrize("comparable", [False, None])
def test_no_number_is_printed_beside_images_that_are_not_the_official_ones(towers, comparable):
    printed = tower_number(TowerPlace("TeCoA", "ViT-B/32", "TinyImageNet eps1", "OxfordPets", "", ""))
    rows = tuple(dataclasses.replace(row, published=(printed,) * 3) for row in towers.table.rows)
    table = dataclasses.replace(towers.table, rows=rows)
    assert {v.paper for line in fill_towers(table, RecordIndex(towers.runs)).values for v in line} == {66.15}
    for path in sorted((towers.top / "TeCoA1").rglob("*.json")):
        record = records.read(path)
        records.write(
            Record(dataclasses.replace(record.result, comparable=comparable), record.observed), towers.top / "TeCoA1"
        )
    filled = fill_towers(table, RecordIndex(towers.runs))
    words = "our images are not the official ones" if comparable is False else "nobody knows which images ours are"
    for value in filled.values[1]:
        assert value.paper is None and f"not comparable with papers: {words}" in value.notes
    assert {value.paper for value in filled.values[2]} == {66.15}
    assert f"TeCoA, clean: none, 66.2 (TGA-ZSR NeurIPS'24 paper text, clean) differs: {words}" in filled.below[-1]


# --- tower x prompt x defense ---------------------------------------------------------------------------------------

STATIC, ADAPTIVE = {"": 26, "mean": 60, "ttc": 70}, {"": 10, "mean": 30, "ttc": 9}


def stacks(top: Path) -> tuple[StackTable, dict[str, Run]]:
    made, runs = [], dict[str, Run]()
    for number, (tower, prompt) in enumerate((t, p) for t in ("CLIP", "FARE") for p in ("hand-written", "AdvPT")):
        run, more = f"run{number}", 20 * number
        for name in STATIC:
            right = [torch.arange(n) < k for n, k in ((200, 116), (200, STATIC[name] + more), (50, 30))]
            write_defended(top / run, name, "static", right[0], right[1], attack="pgd20-ce@4/a0.5")
            robust_images = torch.arange(50) < ADAPTIVE[name] + (number if name else 0)
            write_defended(top / run, name, "adaptive", right[2], robust_images, attack="pgd20-ce@4/a0.5")
        runs[run] = Run(run, top / run, 1, "done", run)
        rows = tuple(DefenseRow(name or "none", name, run) for name in STATIC)
        about = ("x", "", "", tower, "Digits", "pgd20-ce@4", 200, 50)
        made.append(Stack(tower, prompt, DefenseTable(*about, rows)))
    return StackTable("stacks", "Stacks", "About stacks.", tuple(made)), runs


def test_stacks_have_a_row_for_each_defense_and_numbers_of_their_images(tmp_path):
    table, runs = stacks(tmp_path)
    filled = fill_stacks(table, RecordIndex(runs))
    assert filled.table.columns == (
        "clean, 200 images",
        "static, 200 images",
        "clean, 50 of them",
        "adaptive, 50 of them",
    )
    rows = [(row.backbone, row.method, row.defense) for row in filled.table.rows]
    assert rows[:4] == [("CLIP", "hand-written", name) for name in ("none", "mean", "ttc")] + [
        ("CLIP", "AdvPT", "none")
    ]
    shown = dict(zip(rows, [[value.mean_text for value in line] for line in filled.values]))
    assert shown["CLIP", "hand-written", "mean"] == ["58.0", "30.0", "60.0", "60.0"]
    assert shown["FARE", "AdvPT", "none"] == ["58.0", "43.0", "60.0", "20.0"] and len(rows) == 12


def test_each_defense_is_compared_with_none_of_its_own_stack_alone(tmp_path):
    table, runs = stacks(tmp_path)
    index = RecordIndex(runs)
    filled = fill_stacks(table, index)
    first, *_, last = filled.sentences
    assert not index.notes, "no record is missed that no column shows"
    assert len(filled.sentences) == 4 and first.startswith(
        "CLIP, hand-written, against an attacker who knows the defense"
    )
    assert "(without one 20.0 %): gains: mean (+40.0 points" in first
    assert first.endswith("not told from no defense: ttc.") and last.startswith("FARE, AdvPT")
    assert all(" - none" in each.names for each in filled.comparisons) and len(filled.comparisons) == 16
    assert not any(value.better for line in filled.values for value in line)


def test_page_markdown_and_csv(towers):
    table, runs = stacks(towers.top / "stacks")
    write([towers.table, table], towers.runs | runs, towers.top / "report", title="t", about="a", top=towers.top)
    page = html.unescape((towers.top / "report" / "index.html").read_text())
    for shown in ("Not told apart: TeCoA and PMG-AFT", "training (s)", "No source prints", "FARE, AdvPT, against"):
        assert shown in page, shown
    tables = towers.top / "report" / "tables"
    text = (tables / "towers.md").read_text()
    assert text.index("Not told apart") < text.index("| method") < text.index("No source prints") and "**" not in text
    assert "untuned, 4/255 = pgd20-ce@4/a0.5" in text and "| 25 " in text
    with (tables / "towers.csv").open() as file:
        lines = {(r["method"], r["protocol"]): r for r in csv.DictReader(file)}
    assert lines["TeCoA", "adaptive"]["training_s"] == "25" and lines["CLIP", "-"]["ours"] == "58.00"
    with (tables / "stacks.csv").open() as file:
        read = list(csv.DictReader(file))
    assert len(read) == 48 and {r["backbone"] for r in read} == {"CLIP", "FARE"}
    assert {(r["method"], r["defense"]) for r in read} == {
        (p, d) for p in ("hand-written", "AdvPT") for d in ("none", "mean", "ttc")
    }
