"""What is said of records in words."""

from __future__ import annotations

from pathlib import Path

from advpt.evaluation.findings import Finding, Flip, Verdict, conclusion, near

FLIP, PATH = Flip("a.png", "clean", True, -0.5), Path("one.json")


def test_findings_are_sentences() -> None:
    assert str(Finding("clean.n", 3, 4, "its outcomes are")) == "clean.n: the record has 3, its outcomes are 4"
    assert str(Finding(text="no such image")) == "no such image"
    flip = "clean outcome of a.png: the record has correct, made anew it is wrong, with a margin of -0.5000 logits"
    assert str(FLIP) == flip


def test_a_line_for_each_verdict() -> None:
    assert str(Verdict(PATH, "agrees", 4, 8)) == "agrees    one.json: the first 4 of 8 images, bit by bit"
    assert str(Verdict(PATH, "agrees", 8, 8)) == "agrees    one.json: 8 images, bit by bit"
    assert (
        str(Verdict(PATH, "near", 8, 8, flips=(FLIP, FLIP)))
        == "near      one.json: agrees but for 1 image near the boundary"
    )
    assert near(Verdict(PATH, "near")).startswith("the last digits")
    differs = Verdict(PATH, "differs", findings=(Finding(text="x"), Finding(text="y")), flips=(FLIP,))
    assert str(differs) == "DIFFERS   one.json: outcomes of 1 images and 2 other values"
    assert str(Verdict(PATH, "unchecked", notes=("no data",))) == "unchecked one.json: no data"
    assert conclusion([]).startswith(
        "0 records agree bit by bit, 0 but for images near the boundary, 0 differ, 0 cannot"
    )
