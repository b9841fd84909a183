"""benchmarks/test_time_strength.py: attacks through one variant are made once, and end in a figure."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def strength(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import test_time_strength

    return test_time_strength


def test_curves_are_drawn_and_attacks_through_one_variant_are_shared(strength, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(strength, "DEFENSES", {"mean/views=2": "mean of views", "conf/views=2": "mean of views"})
    attacked = []
    attack = strength.Strength._attack
    monkeypatch.setattr(strength.Strength, "_attack", lambda *args: attacked.append(args[2:]) or attack(*args))
    words = ["--images", "4", "--eps", "16", "--steps", "1", "2", "--draws", "1", "2", "--at", "2"]
    assert strength.main([*words, "--output", str(tmp_path)]) == 0
    with (tmp_path / "test_time_strength.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["panel"], line["x"]) for line in lines[:4]] == [
        ("steps, one draw in each", "1"), ("steps, one draw in each", "2"),
        ("draws in each of 2 steps", "1"), ("draws in each of 2 steps", "2"),
    ]  # fmt: skip
    assert {line["images"] for line in lines} == {"4"} and len(lines) == 8
    assert attacked == [(1, 1), (2, 1), (2, 2)], "steps and draws; the second defense needs no attack of its own"
    assert lines[0]["series"] == "mean/views=2, through mean of views"
    assert (tmp_path / "test_time_strength.png").read_bytes().startswith(b"\x89PNG")
    assert "conf/views=2" in capsys.readouterr().out


def test_images_are_those_of_an_evaluation(strength, tmp_path):
    images = strength.digits(tmp_path, 10)
    assert len({sample.label for sample in images.samples}) == 10, "classes take turns"
    assert all(Path(sample.path).is_file() for sample in images.samples)
