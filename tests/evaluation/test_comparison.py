"""A record beside one that was made anew."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from advpt.evaluation.comparison import Anew, compare, other_host
from advpt.evaluation.evaluator import RecordAnswers
from advpt.evaluation.findings import conclusion, unchecked
from advpt.evaluation.measure import Answers
from advpt.evaluation.record import Host, Observed, PartAccuracy, Record, RobustAccuracy
from tests.evaluation.test_arithmetic import CLEAN, RIGHT, record

IDS = [f"{i}.png" for i in range(10)]
PART = PartAccuracy(name="left", attack="pgd1-ce@4", n=6, correct=4.0, accuracy=200 / 3, left=True, bank="x")


def answers(correct: torch.Tensor, margin: float = 1.0) -> Answers:
    return Answers(correct, torch.where(correct, margin, -margin))


def anew(made: Record, margins: dict[int, float] | None = None, parts: tuple[Answers, ...] = ()) -> Anew:
    """A record with margins of 1, but for those of some images."""
    robust = answers(torch.from_numpy(made.result.robust.outcomes()))
    for row, margin in (margins or {}).items():
        robust.margins[row] = margin
    clean = answers(torch.from_numpy(made.result.clean.outcomes()))
    return Anew(made, RecordAnswers([clean], [robust], tuple([each] for each in parts)), IDS)


def turned(row: int = 1, **fields: Any) -> Record:
    """The record with another outcome of one image."""
    right = RIGHT.clone()
    right[row] = ~right[row]
    return record(right, **fields)


def changed(**fields: Any) -> Record:
    return record(robust=dataclasses.replace(record().result.robust, **fields))


def test_equal_records_agree_and_how_they_came_to_be_is_not_compared() -> None:
    made = record(warnings=("training bank abc: odd",))
    assert compare(made, anew(record())).status == "agrees"
    verdict = compare(record(), anew(record(warnings=("bank abc: odd",))))
    assert verdict.status == "differs" and verdict.findings[0].name == "warnings"


def test_the_rows_of_a_part_are_compared_too() -> None:
    few, other = (dataclasses.replace(record(), observed=Observed(rows=rows)) for rows in ((0, 2), (0, 3)))
    assert compare(few, anew(few)).status == compare(record(), anew(few)).status == "agrees"
    assert [each.name for each in compare(few, anew(other), lenient=True).findings] == ["observed.rows"]


def test_a_flip_is_named_with_its_margin_and_is_a_difference_on_the_same_machine() -> None:
    verdict = compare(record(), anew(turned(), {1: 0.01}))
    assert verdict.status == "differs" and [flip.image for flip in verdict.flips] == ["1.png"]
    line = "robust outcome of 1.png: the record has wrong, made anew it is correct, with a margin of +0.0100 logits"
    assert str(verdict.flips[0]) == line
    assert {"robust.accuracy", "robust.correct"} <= {each.name for each in verdict.findings}


@pytest.mark.parametrize(
    ("made", "margins", "status"),
    [
        (turned(), {1: 0.04}, "near"),
        (turned(), {1: -0.04}, "near"),
        (turned(), {1: 0.06}, "differs"),
        (record(), {}, "agrees"),
        (changed(bank="other"), {}, "differs"),
        (changed(untouched=30.0), {}, "near"),
        (changed(untouched=40.0), {}, "differs"),
        (changed(largest_linf=4.005), {}, "near"),
        (changed(largest_linf=3.0), {}, "differs"),
        (record(prompt="other"), {}, "differs"),
        (changed(lost=None), {}, "differs"),
        (changed(on_perturbed=None), {}, "differs"),
        (changed(stages={"apgd": 3}), {}, "differs"),
        (record(flags=("depends on batch",)), {}, "differs"),
        (turned(), {1: float("nan")}, "differs"),
    ],
)
def test_elsewhere_images_near_the_boundary_may_flip(made: Record, margins: dict[int, float], status: str) -> None:
    assert compare(record(), anew(made, margins), lenient=True).status == status


def test_parts_may_differ_by_their_own_images_near_the_boundary() -> None:
    whole = dataclasses.replace(PART, left=False, n=10, correct=6.0, accuracy=60.0, bank="w")
    before = changed(parts=(whole, PART))
    fewer = dataclasses.replace(PART, n=3, correct=1.0, accuracy=100 / 3, bank="y")
    after = changed(parts=(dataclasses.replace(whole, correct=3.0, accuracy=30.0), fewer))
    one = changed(parts=(dataclasses.replace(whole, correct=5.0, accuracy=50.0), PART))
    near, far = answers(CLEAN, 0.01), answers(CLEAN)
    assert compare(before, anew(after, parts=(near, far)), lenient=True).status == "near"
    assert compare(before, anew(after, parts=(far, near)), lenient=True).status == "differs"
    assert compare(before, anew(one, parts=(far, far)), lenient=True).status == "near", "one in ten takes another path"
    other = changed(parts=(dataclasses.replace(whole, bank="other"), PART))
    assert compare(before, anew(other, parts=(near, near)), lenient=True).status == "differs"
    nested = next(each for each in compare(before, anew(other, parts=(near, near))).findings)
    assert str(nested) == "robust.parts[0].bank: the record has 'w', made anew it is 'other'"


def test_the_first_images_alone() -> None:
    part = dataclasses.replace(
        record().result, clean=record().result.clean.of(CLEAN[:4]), robust=RobustAccuracy.of(~RIGHT[:4])
    )
    short = Anew(Record(part), RecordAnswers([answers(CLEAN[:4])], [answers(~RIGHT[:4])]), IDS[:4])
    verdict = compare(record(), short)
    assert verdict.images == 4 and verdict.of == 10 and len(verdict.flips) == 4 and not verdict.findings


def test_other_hosts_and_the_last_line() -> None:
    here = Observed(host=Host("x86_64", 2, "cpu", 2, "A"), versions={"torch": "2"})
    assert other_host(here, here) == []
    there = Observed(host=Host("x86_64", 2, "cpu", 1, "A"), versions={"torch": "1"})
    assert other_host(there, here) == ["threads 1 there, 2 here", "torch 1 there, 2 here"]
    verdicts = [
        compare(record(), anew(record())),
        compare(record(), anew(turned(), {1: 0.0}), lenient=True),
        compare(record(), anew(turned())),
        unchecked(record().place, "no data"),
    ]
    assert [str(each)[:9].strip() for each in verdicts] == ["agrees", "near", "DIFFERS", "unchecked"]
    assert conclusion(verdicts) == (
        "1 record agrees bit by bit, 1 but for images near the boundary, 1 differs, 1 cannot be checked (no data)"
    )
