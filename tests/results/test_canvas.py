"""What all figures share: names that are not read as formulas, ticks apart, equal files."""

from __future__ import annotations

from advpt.results.canvas import blank, finish, plain, save, style
from tests.helpers.figures import faults, legend_of


def test_a_name_is_one_line_or_broken_at_words():
    assert plain("a\nb\tc\x00d  e\u202e") == "a b c d e"
    assert plain("one two three", 7) == "one two\nthree" and plain("", 7) == ""


def test_touching_names_stand_upright_and_of_touching_numbers_some_are_left_out():
    with style():
        canvas, (names, numbers) = blank(2, 2, 2.0)
        names.set_xticks(range(6), [f"a rather long name {k}" for k in range(6)])
        numbers.set_xticks([float(k) for k in range(40)], [f"{10 * k}" for k in range(40)])
        finish(canvas, {})
    assert {label.get_rotation() for label in names.get_xticklabels()} == {90.0}
    assert 5 < len(numbers.get_xticks()) < 40 and numbers.get_xlim() == (0.0, 39.0) and faults(canvas) == []


def test_a_legend_has_as_many_columns_as_fit_and_keeps_every_name():
    names = ["_hidden", "$x^$", *(f"a method of many words, number {k}" for k in range(6))]
    with style():
        canvas, (axis,) = blank(1, 3, 2.0)
        finish(canvas, {name: axis.plot([0, 1])[0] for name in names})
    assert legend_of(canvas) == names and faults(canvas) == []


def test_equal_figures_are_equal_files(tmp_path):
    with style():
        made = []
        for folder in ("one", "two"):
            canvas, (axis,) = blank(1, 3, 1.0, 1.0)
            finish(canvas, {"a": axis.plot([0, 1])[0]})
            made.append([path.read_bytes() for path in save(canvas, tmp_path / folder, "name")])
    assert made[0] == made[1]
