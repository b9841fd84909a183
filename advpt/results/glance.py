"""The figure above a table: bars of clean and robust accuracy, by what the attacker knows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from advpt.files import write_text
from advpt.results.canvas import ACROSS, COLOURS, HATCHES, blank, finish, plain, png, save, style
from advpt.results.exhibit import Condition, TableRow
from advpt.results.render import to_csv
from advpt.results.terms import SHORT
from advpt.results.values import NO_CELL, FilledTable, Value

HEADS = ("figure", "panel", "method", "protocol", "attack", "mean", "low", "high", "range", "datasets", "records")
MANY = 7  # methods, from which on each has a row of its own, with a bar for each attack
BAR, LINE, GAP = 0.12, 0.15, 0.06  # inches: a bar, a line of text, the space above a row
LETTERS = 56  # of a line of text across a panel


@dataclass(frozen=True)
class Bar:
    """A number of the figure.

    Args:
        panel: a backbone. method: with the defense that it stands behind. condition: protocol and attack.
        value: mean, low and high; None where ``word`` says why there is none.
        datasets: with several the number is the mean over them, from the lowest to the highest.
        one_seed: the interval is of the images alone.
    """

    panel: str
    method: str
    condition: Condition
    value: tuple[float, float, float] | None
    word: str
    datasets: tuple[str, ...]
    ids: tuple[str, ...]
    one_seed: bool = False


def bars(tables: Sequence[FilledTable]) -> list[Bar]:
    """The bars of tables: one for each method and condition, clean first, then as the tables have them. Several tables
    are of one data set and backbone, on more and fewer of its images: each attack says on how many, and the clean
    accuracy is that on the most.
    """
    by: dict[tuple[str, str, Condition], dict[str, Value]] = {}
    for filled in sorted(tables, key=_images, reverse=True):
        beside = f", n = {_images(filled)}" if len({_images(table) for table in tables}) > 1 else ""
        for row, line in zip(filled.table.rows, filled.values):
            for head, value in zip(filled.table.columns, line):
                condition, dataset = filled.table.conditions.get(head), ""
                if condition is None:
                    protocol = row.protocol.strip("-")
                    condition, dataset = Condition(protocol, row.attack if protocol else "clean"), head
                if condition.protocol:
                    condition = replace(condition, attack=condition.attack + beside)
                key = (row.backbone, _method(row), condition)
                if value.state != NO_CELL and (len(tables) == 1 or key not in by):
                    by.setdefault(key, {})[dataset] = value
    order = list(dict.fromkeys(condition.protocol for _, _, condition in by))
    keys = sorted(by, key=lambda key: (key[2].protocol != "", order.index(key[2].protocol)))
    return [_bar(*key, by[key], _shared(by, key)) for key in keys]


def _images(filled: FilledTable) -> int:
    """The most images that a number of a table is of."""
    return max((value.runs.images for line in filled.values for value in line if value.runs is not None), default=0)


def _method(row: TableRow) -> str:
    """``AdvPT, behind super``"""
    if row.defense in ("", "none"):
        return row.method or "no defense"
    return f"{row.method}, behind {row.defense}" if row.method else row.defense


def _shared(by: dict[tuple[str, str, Condition], dict[str, Value]], key: tuple[str, str, Condition]) -> list[str]:
    """The data sets that all methods which were run have under a condition: over others a mean says nothing."""
    panel, _, condition = key
    rivals = [cells for (p, _, c), cells in by.items() if (p, c) == (panel, condition)]
    numbers = [{name for name, value in cells.items() if value.runs is not None} for cells in rivals]
    shared = set.intersection(*(names for names in numbers if names)) if any(numbers) else set()
    return [name for name in by[key] if name in shared]


def _bar(panel: str, method: str, condition: Condition, cells: dict[str, Value], shared: Sequence[str]) -> Bar:
    values = [cells[name] for name in shared if cells[name].runs is not None]
    intervals = [value.interval for value in values if value.interval is not None]
    if not intervals:
        words = [value.state for value in cells.values() if value.runs is None]
        return Bar(panel, method, condition, None, words[0] if words else "not run", (), ())
    means = [interval.mean for interval in intervals]
    bounds = (min(means), max(means)) if len(means) > 1 else (intervals[0].low, intervals[0].high)
    ids = tuple(dict.fromkeys(itertools.chain.from_iterable(value.ids for value in values)))
    one_seed = len(means) == 1 and intervals[0].images_only
    return Bar(panel, method, condition, (float(np.mean(means)), *bounds), "", tuple(shared), ids, one_seed)


def caption(drawn: Sequence[Bar]) -> str:
    """What bars and lines are."""
    most = max((len(bar.datasets) for bar in drawn), default=0)
    if most > 1:
        text = f"Bars: means over {most} data sets, as many as all methods have; lines: from the lowest to the highest."
    else:
        text = "Bars: accuracy; lines: 95 % intervals."
    return f"{text} Longer is better."


def summary(title: str, drawn: Sequence[Bar]) -> str:
    """The numbers, for those who do not see the figure."""
    parts = [
        f"{', '.join(part for part in (bar.panel, bar.method, _words(bar.condition)) if part)}: {_number(bar)}"
        for bar in drawn
    ]
    return f"{title}, accuracy in %. {'; '.join(parts)}"


def comma_separated(name: str, drawn: Sequence[Bar]) -> str:
    """The CSV beside the figure."""
    lines: list[list[object]] = []
    for bar in drawn:
        numbers = [f"{x:.2f}" for x in bar.value] if bar.value is not None else [bar.word, "", ""]
        over = "data sets" if len(bar.datasets) > 1 else "95 % interval"
        about = [over if bar.value is not None else "", " ".join(filter(None, bar.datasets)), " ".join(bar.ids)]
        lines.append([name, bar.panel, bar.method, bar.condition.protocol, bar.condition.attack, *numbers, *about])
    return to_csv(HEADS, lines)


def draw(drawn: Sequence[Bar], folder: Path, name: str) -> list[Path]:
    """``<name>.png``, ``<name>.pdf`` and ``<name>.csv`` in ``folder``."""
    with style():
        paths = save(compose(drawn), folder, name)
    path = folder / f"{name}.csv"
    write_text(path, comma_separated(name, drawn))
    return [*paths, path]


def narrow(drawn: Sequence[Bar]) -> bytes:
    """The same as a PNG with its panels below each other; empty where there is one panel."""
    if len({bar.panel for bar in drawn}) < 2:
        return b""
    with style():
        return png(compose(drawn, across=1))


def compose(drawn: Sequence[Bar], across: int = ACROSS) -> Any:
    """The figure as matplotlib has it, inside :func:`~advpt.results.canvas.style`."""
    panels = list(dict.fromkeys(bar.panel for bar in drawn))
    by_method = len({bar.method for bar in drawn}) > MANY
    names = list(dict.fromkeys(_series(bar, by_method) for bar in drawn))
    heights = [_height(_rows(drawn, panel, by_method)) for panel in panels]
    canvas, axes = blank(len(panels), across, max(heights) + 0.7)
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes, panels):
        _panel(axis, _rows(drawn, panel, by_method), by_method, names, handles)
        axis.set(xlim=(0, 100), ylim=(-max(heights), 0), yticks=[], xlabel="accuracy (%)")
        axis.grid(visible=False, axis="y")
        axis.set_title(plain(panel, LETTERS), fontsize=9)
    finish(canvas, {name: handles[name] for name in names if name in handles})
    return canvas


Rows = dict[tuple[str, str], list[Bar]]  # by heading and label


def _rows(drawn: Sequence[Bar], panel: str, by_method: bool) -> Rows:
    rows: Rows = {}
    for bar in drawn:
        if bar.panel == panel:
            c = bar.condition
            key = ("", bar.method) if by_method else (_heading(c), c.attack if c.protocol else "")
            rows.setdefault(key, []).append(bar)
    return rows


def _heading(condition: Condition) -> str:
    known = condition.about or SHORT.get(condition.protocol, "")
    return f"{condition.protocol or 'clean'}: {known}" if known else condition.protocol or condition.attack


def _series(bar: Bar, by_method: bool) -> str:
    return _words(bar.condition) if by_method else bar.method


def _words(condition: Condition) -> str:
    return f"{condition.protocol}: {condition.attack}" if condition.protocol else "clean"


def _number(bar: Bar) -> str:
    """``55.5``, with words for an interval of the images alone, or the word in its place."""
    if bar.value is None:
        return bar.word
    return f"{bar.value[0]:.1f}" + (", 1 seed" if bar.one_seed else "")


def _height(rows: Rows) -> float:
    """Inches."""
    headings = {heading: plain(heading, LETTERS).count("\n") + 1 for heading, _ in rows if heading}
    labels = sum(plain(label, LETTERS).count("\n") + 1 for _, label in rows if label)
    return sum(headings.values()) * LINE + labels * LINE + sum(GAP + BAR * len(row) for row in rows.values()) + GAP


def _panel(axis: Any, rows: Rows, by_method: bool, names: Sequence[str], handles: dict[str, Any]) -> None:
    at, last = 0.0, ""
    for (heading, label), row in rows.items():
        at += GAP
        texts = [(heading, "bold")] if heading and heading != last else []
        texts += [(label, "normal")] if label else []
        for text, weight in texts:
            words = plain(text, LETTERS)
            place = axis.get_yaxis_transform()
            axis.text(0.008, -at, words, transform=place, fontsize=8, fontweight=weight, va="top", ha="left")
            at += LINE * (words.count("\n") + 1)
        last = heading
        for bar in row:
            name = _series(bar, by_method)
            handles.setdefault(name, _bar_of(axis, at + BAR / 2, bar, names.index(name)))
            at += BAR


def _bar_of(axis: Any, at: float, bar: Bar, place: int) -> Any:
    """Draw one bar, its line, and its number at the right edge; its handle for the legend."""
    mean, low, high = bar.value or (0.0, 0.0, 0.0)
    look = {"color": COLOURS[place % len(COLOURS)], "hatch": HATCHES[place // len(COLOURS) % len(HATCHES)]}
    handle = axis.barh(-at, mean, 0.8 * BAR, edgecolor="white", linewidth=0, **look)
    if bar.value is not None:
        axis.plot([low, high], [-at, -at], color="#222222", linewidth=0.8, solid_capstyle="butt")
    number, right = _number(bar), axis.get_yaxis_transform()
    axis.text(1.01, -at, number, transform=right, fontsize=7, va="center", ha="left")
    return handle
