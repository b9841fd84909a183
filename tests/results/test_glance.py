"""The figure above a table: which bars it has, what they are means of, and that no text covers another."""

from __future__ import annotations

import csv
import io

import pytest

from advpt.results import glance
from advpt.results.canvas import style
from advpt.results.exhibit import Condition
from advpt.results.values import NO_CELL, FilledTable, Value
from tests.helpers.figures import METHODS, faults, filled, legend_of, number
from tests.helpers.reports import NASTY

PGD, APGD = "PGD-40 (feature KL) 8/255", "APGD-CE and APGD-T 8/255"
COLUMNS = (("", "clean"), ("transfer", PGD), ("transfer", APGD), ("static", PGD), ("adaptive", PGD))
ROWS = (("-", "clean"), ("transfer", "pgd40"), ("adaptive", "pgd (pgd10-ce@2/a0.5)"))
MANY = [f"a defense at test time {k}" for k in range(16)]
CASES = {
    "the demo": filled(["ZeroshotCLIP", "CoOp", "AdvPT"], COLUMNS),
    "one method": filled(["AdvPT"], COLUMNS[:2]),
    "a word in a cell": filled(["CoOp", "AdvPT"], COLUMNS, word="not run"),
    "data sets, two backbones": filled(METHODS, ROWS, conditions=False, backbones=("ViT-B/16", "ViT-L/14")),
    "input defenses": filled(["vanilla", "AdvPT"], ROWS[1:2], conditions=False, defenses=("none", "super", "x", "y")),
    "many defenses": filled([""], COLUMNS, defenses=MANY),
    "names that are formulas": filled([NASTY, "$x^$", "_a"], (("", "clean"), ("adaptive", NASTY * 3), ("$y^", "$_"))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_text_covers_another_and_everything_is_in_the_legend(name):
    bars = glance.bars([CASES[name]])
    with style():
        canvas = glance.compose(bars)
        narrow = glance.compose(bars, across=1) if len({bar.panel for bar in bars}) > 1 else None
    methods, conditions = {bar.method for bar in bars}, {bar.condition for bar in bars}
    for each in filter(None, (canvas, narrow)):
        assert faults(each) == [] and [axis.get_xlabel() for axis in each.axes][0] == "accuracy (%)"
        assert len(legend_of(each)) == len(conditions if len(methods) > glance.MANY else methods)
    assert (narrow is not None) == (glance.narrow(bars) != b"")


def test_what_an_attacker_knows_stands_above_the_bars_clean_first():
    table = filled(["CoOp", "AdvPT"], [*COLUMNS[1:], COLUMNS[0]])
    with style():
        canvas = glance.compose(glance.bars([table]))
    shown = [text.get_text() for text in canvas.axes[0].texts]
    heads = [text for text in shown if ": " in text]
    assert [head.partition(":")[0] for head in heads] == ["clean", "transfer", "static", "adaptive"]
    assert heads[1] == "transfer: the attacker does not know the tuned prompt" and PGD in shown


def test_a_bar_over_data_sets_is_the_mean_over_those_that_all_methods_have():
    table = filled(["CoOp", "AdvPT"], ROWS[:1], conditions=False)
    table.values[:] = [[number(10), number(20), number(90)], [number(30), number(50), Value("failed")]]
    one, other = glance.bars([table])
    assert one.datasets == other.datasets == ("Flowers", "Pets")
    assert one.value == pytest.approx((15.1, 10.1, 20.1)) and other.value == pytest.approx((40.1, 30.1, 50.1))
    assert glance.caption([one]).startswith("Bars: means over 2 data sets") and "95 %" not in glance.caption([one])
    table.values[1] = [Value("failed")] * 3
    one, other = glance.bars([table])
    assert len(one.datasets) == 3 and (other.value, other.word) == (None, "failed")
    table.values[1] = [Value(NO_CELL)] * 3
    assert [bar.method for bar in glance.bars([table])] == ["CoOp"]


def test_tables_of_more_and_fewer_images_share_a_figure():
    def table(n: int, *columns: tuple[str, str]) -> FilledTable:
        made = filled(["AdvPT"], columns)
        made.values[:] = [[number(n / 10, n=n) for _ in columns]]
        return made

    few, many = table(200, ("", "clean"), ("adaptive", PGD)), table(600, ("", "clean"), ("transfer", PGD))
    bars = glance.bars([few, many])
    assert [(bar.condition.protocol, bar.condition.attack) for bar in bars] == [
        ("", "clean"), ("transfer", f"{PGD}, n = 600"), ("adaptive", f"{PGD}, n = 200"),
    ]  # fmt: skip
    assert bars[0].value[0] == pytest.approx(60.1), "clean on the most images"


def test_the_numbers_stand_in_a_csv_and_in_words():
    table = filled(["CoOp", "AdvPT"], COLUMNS[:2], word="not run")
    table.values[0][0] = number(80, seeds=(1,))
    bars = glance.bars([table])
    rows = list(csv.DictReader(io.StringIO(glance.comma_separated("made_glance", bars))))
    assert [(r["method"], r["protocol"], r["mean"]) for r in rows] == [
        ("CoOp", "", "80.00"), ("AdvPT", "", "27.10"), ("CoOp", "transfer", "33.10"), ("AdvPT", "transfer", "not run"),
    ]  # fmt: skip
    assert rows[0]["records"] == f"{1:064d}" and float(rows[0]["low"]) < 80 < float(rows[0]["high"])
    text = glance.summary("Made up", bars)
    assert text.startswith("Made up, accuracy in %. CoOp, clean: 80.0, 1 seed; AdvPT, clean: 27.1; ")
    assert f"AdvPT, transfer: {PGD}: not run" in text


def test_an_attacker_apart_from_clip_is_named():
    bar = glance.Bar(
        "", "AdvPT", Condition("transfer", "RAP", "the attacker has a network of its own"), None, "x", (), ()
    )
    with style():
        canvas = glance.compose([bar])
    assert "transfer: the attacker has a network of its own" in [text.get_text() for text in canvas.axes[0].texts]
