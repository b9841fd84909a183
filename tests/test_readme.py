"""README.md: it is short, what it shows was printed, what it says can be typed can be typed.

Its Python is run by tests/test_docs_examples.py.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
SCREEN, COLUMNS = 50, 120  # lines, letters
METHODS = ("ZeroshotCLIP", "CoOp", "AdvPT")


def test_up_to_the_doors_it_fits_two_screens():
    lines = README.split("\n## All pages")[0].splitlines()
    assert [line for line in lines if len(line) > COLUMNS] == []
    assert 50 < len(lines) <= 2 * SCREEN
    assert README.count("<img ") == 1 and README.count("\n|--") == 1, "one figure and one table"


def test_every_file_it_names_exists():
    named = set(re.findall(r"[\w./-]+\.(?:md|sh|py|yaml|cff)\b", README))
    assert {"scripts/advpt/main.sh", "DATASETS.md"} <= named
    assert [
        name for name in sorted(named) if not any((ROOT / top / name).exists() for top in ("", "scripts/advpt"))
    ] == []


Row = list[str]


def tables(text: str) -> list[tuple[Row, list[Row]]]:
    """The heads and rows of the tables of a page."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines())
        found.append((head, rows))
    return found


def printed() -> dict[tuple[str, str, int], str]:
    """The cells of the tables of methods in docs/demo.md, by method, head and number of images."""
    text = DEMO.split("<!-- demo -->")[1].split("<!-- /demo -->")[0]
    cells = {}
    for part in re.split(r"(?=^Digits, test split)", text, flags=re.MULTILINE)[1:]:
        images = int(re.match(r"Digits, test split, (\d+) images, DemoCLIP; accuracy in %", part)[1])
        head, rows = tables(part)[0]
        cells |= {(row[0], name, images): cell for row in rows for name, cell in zip(head, row)}
    return cells


def test_the_page_of_the_demo_has_what_the_report_prints():
    cells = printed()
    assert {method for method, _, _ in cells} == set(METHODS) and {images for _, _, images in cells} == {600, 200}
    protocols = {name.split(", ")[-1] for _, name, _ in cells if "/255" in name}
    assert protocols == {"transfer", "transfer-all", "adaptive"}
    assert all(
        re.match(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", cell) for (_, name, _), cell in cells.items() if "/255" in name
    )
    assert "AdvPT's training bank: pgd10-fkl@4" in DEMO and "95 % interval" in DEMO


def test_the_table_is_an_excerpt_of_the_demo():
    shown = README.split("<!-- excerpt of docs/demo.md -->")[1].split("<!-- /excerpt -->")[0]
    ((head, rows),) = tables(shown)
    assert head == ["accuracy in % [95 % interval]", "images", *METHODS]
    assert {name.split(", ")[-1] for name, *_ in rows} == {"clean", "transfer", "adaptive"}
    cells = printed()
    for name, images, *numbers in rows:
        assert numbers == [cells[method, name, int(images)] for method in METHODS]


def test_the_figure_is_of_the_same_numbers():
    cells, bars = printed(), list(csv.DictReader((ROOT / "docs" / "demo.csv").open(encoding="utf-8")))
    assert {bar["method"] for bar in bars} == set(METHODS) and {"", "transfer", "adaptive"} <= {
        b["protocol"] for b in bars
    }
    for bar in bars:
        attack, _, images = bar["attack"].partition(", n = ")
        head = f"{attack}, {bar['protocol']}" if bar["protocol"] else "clean"
        numbers = [float(bar[name]) for name in ("mean", "low", "high")]
        cell = cells[bar["method"], head, int(images or 600)]
        assert [float(x) for x in re.findall(r"\d+\.\d", cell)[:3]] == pytest.approx(numbers, abs=0.051)
    with Image.open(ROOT / "docs" / "demo.png") as figure:
        assert figure.width > 500
