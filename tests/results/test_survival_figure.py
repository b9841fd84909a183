"""The figure of what survives: where its marks are, what is written, and that no text covers another."""

from __future__ import annotations

import dataclasses
import html

import pytest

from advpt.results import survival_figure
from advpt.results.canvas import style
from advpt.results.report import write
from advpt.results.survival import INPUT, PROMPT, TEST_TIME
from tests.helpers.benchmark import SOME, Made, defense, hits, nothing_run, on_part, survival, survivors
from tests.helpers.figures import faults, legend_of


@pytest.fixture
def made(tmp_path) -> Made:
    return survivors(tmp_path)


def many(made: Made, spread: float = 1.0, base: int = 0) -> None:
    """A dozen defenses, near to each other with little ``spread``."""
    for k, name in enumerate(("rtpt", "mta", "zero", "dbd", "clipure", "anti-adversaries", "noise", "low-pass")):
        gain = int(spread * 5 * k)
        defense(made, name, on_part(made, 5 + gain), hits(15 + gain // (1 + k % 3), SOME))
        made.rows[-1] = dataclasses.replace(made.rows[-1], against=base)


@pytest.mark.parametrize(("spread", "narrow"), [(1.0, False), (0.1, True)])
def test_no_text_of_the_figure_covers_another(made, spread, narrow):
    many(made, spread)
    with style():
        canvas = survival_figure.compose(survival(made), narrow=narrow)
    assert faults(canvas) == []
    (axis,) = canvas.axes
    names = {each.label for each in survival(made).compared}
    assert len(names) == 13 and {text.get_text() for text in axis.texts} == names, "each mark has its name"
    assert axis.get_xlim() == axis.get_ylim(), "so that the diagonal is one"
    kinds = [INPUT, TEST_TIME, PROMPT]
    assert set(legend_of(canvas)) == {*kinds, "filled: keeps a gain", "hollow: does not, or nothing is claimed",
                                      "all of the gain is kept", "fewer right with it than without"}  # fmt: skip


def test_a_mark_stands_at_both_gains_and_is_filled_where_a_gain_is_kept(made):
    with style():
        (axis,) = survival_figure.compose(survival(made)).axes
    marks = {(line.get_xdata()[0], line.get_ydata()[0]): line for line in axis.lines if len(line.get_xdata()) == 1}
    rows = {each.name: each for each in survival(made).compared}
    assert len(marks) == 5
    for name, each in rows.items():
        filling = marks[each.published.mean, each.adaptive.mean].get_markerfacecolor()
        assert (filling == "white") == (name != "mean"), name


def test_each_row_that_others_are_compared_with_has_a_panel(made):
    many(made, base=1)
    with style():
        wide, narrow = (survival_figure.compose(survival(made), narrow=each) for each in (False, True))
    assert [axis.get_title() for axis in wide.axes] == ["over CLIP, hand-written", "over mean"]
    assert wide.get_figwidth() > 1.9 * narrow.get_figwidth() and faults(wide) == faults(narrow) == []
    assert wide.axes[0].get_xlim() == wide.axes[1].get_ylim()


def test_the_report_has_the_figure_the_sentences_and_both_tables(made):
    report = write([made.survival(), made.table()], made.runs, made.top / "report", title="t", about="a", top=made.top)
    page = html.unescape((made.top / "report" / "index.html").read_text())
    for shown in ("1 of 4 keeps one", "Nothing is claimed beyond", "won by", "ttc over CLIP, hand-written: +70.0",
                  "Crosses: 95 % intervals", "the strongest of the adaptive attacks"):  # fmt: skip
        assert shown in page, shown
    assert page.index("<img") < page.index("As its authors measure it, 4 of 5") and page.count("data:image/png") == 2
    for each in survival(made).compared:
        assert all(f'href="#record-{i[:16]}"' in page for i in each.ids)
    kinds = {path.relative_to(made.top / "report").as_posix() for path in report.files}
    assert {"figures/survival.png", "figures/survival.pdf", "tables/survival.csv", "tables/survival.md",
            "tables/survival.tex", "tables/benchmark.csv"} <= kinds  # fmt: skip


def test_nothing_is_drawn_before_anything_is_measured(made):
    with style():
        canvas = survival_figure.compose(nothing_run(made))
    assert [text.get_text() for text in canvas.axes[0].texts] == ["no number yet"]
