"""The figure of what survives: the gain as the authors measure it across, that against an attacker who knows the method
up. On the diagonal all of a gain is kept, on the zero line none."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advpt.evaluation.intervals import Interval
from advpt.results.canvas import COLOURS, Drawing, blank, finish, plain, png, save, style
from advpt.results.labels import write_labels
from advpt.results.survival import INPUT, KINDS, OTHER, PROMPT, TEST_TIME, TOWER, FilledSurvival, SurvivalRow

MARKERS = {PROMPT: "o", TOWER: "s", INPUT: "^", TEST_TIME: "D", OTHER: "v"}
COLOUR = dict(zip(KINDS, COLOURS))
ALONE, SEVERAL, NARROW = 6.6, 4.8, 4.4  # inches, a panel that is the only one, one of several, one on a narrow screen
HEIGHT = 0.98  # of a panel, for its width: below it the legend has room of its own
X, Y = "gain as its authors measure it (points)", "gain, adaptive attacker (points)"
FILLED, HOLLOW = "filled: keeps a gain", "hollow: does not, or nothing is claimed"
KEPT, WORSE = "all of the gain is kept", "fewer right with it than without"
GREY = "#444444"
SHADE = "#f0f0f0"
PIECES = 48  # of the diagonal, each of which a label avoids
READING = (
    "Each mark is a method: further right, more gain over the same without it as its authors measure it; further up, "
    "more gain against an attacker who knows it. On the diagonal all of the gain is kept, on the zero line none. "
    "Filled marks keep a gain that chance does not explain. Crosses: 95 % intervals of the paired differences."
)


def draw(filled: FilledSurvival, folder: Path) -> Drawing:
    """``<name>.png`` and ``<name>.pdf`` in ``folder``, and what a page needs of them."""
    with style():
        files = save(compose(filled), folder, filled.table.name)
        narrow = png(compose(filled, narrow=True))
    return Drawing(tuple(files), narrow, summary(filled), READING)


def summary(filled: FilledSurvival) -> str:
    """The numbers, for those who do not see the figure."""
    parts = [
        f"{row.name} over {row.over}: {row.published.mean:+.1f}, adaptive {row.adaptive.mean:+.1f}, {row.word}"
        for row in filled.compared
        if row.published is not None and row.adaptive is not None
    ]
    return f"{filled.table.title}. Gains in points as authors measure them: {'; '.join(parts) or 'no number yet'}."


def compose(filled: FilledSurvival, *, narrow: bool = False) -> Any:
    """The figure as matplotlib has it, inside :func:`~advpt.results.canvas.style`: a panel for each row that others are
    compared with, all with the same axes."""
    rows = filled.compared
    panels = list(dict.fromkeys(row.over for row in rows)) or [""]
    size = NARROW if narrow else ALONE if len(panels) == 1 else SEVERAL
    canvas, axes = blank(len(panels), 1 if narrow else 2, HEIGHT * size, size)
    span, handles = _span(rows), dict[str, Any]()
    for axis, panel in zip(axes, panels):
        _panel(axis, f"over {panel}" if panel else "", [row for row in rows if row.over == panel], span, handles)
    finish(canvas, {name: handles[name] for name in (*KINDS, FILLED, HOLLOW, KEPT, WORSE) if name in handles})
    for axis, panel in zip(axes, panels):
        _names(axis, [row for row in rows if row.over == panel], span)
    return canvas


def _span(rows: Sequence[SurvivalRow]) -> tuple[float, float]:
    """Both ends of both axes: all means and their intervals."""
    intervals = [i for row in rows for i in (row.published, row.adaptive) if i is not None]
    ends = [0.0, 10.0, *(end for i in intervals for end in (i.low, i.high))]
    margin = 0.04 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin


def _panel(axis: Any, title: str, rows: Sequence[SurvivalRow], span: tuple[float, float], handles: Any) -> None:
    axis.set_title(plain(title, 55), fontsize=9)
    axis.set(xlabel=X, ylabel=Y, xlim=span, ylim=span)
    if not rows:
        axis.text(0.5, 0.5, "no number yet", ha="center", va="center", transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return
    axis.grid(visible=False)
    look = {"color": GREY, "linewidth": 0.8, "zorder": 1}
    axis.axhline(0, **look)
    axis.axvline(0, **look)
    (handles[KEPT],) = axis.plot(span, span, linestyle="--", **look)
    handles[WORSE] = axis.fill_between(span, span[0], 0, color=SHADE, zorder=0, linewidth=0)
    for row in rows:
        _mark(axis, row)
        handles.setdefault(row.kind, _handle(MARKERS[row.kind], COLOUR[row.kind], COLOUR[row.kind]))
        name, filling = (FILLED, GREY) if row.keeps else (HOLLOW, "white")
        handles.setdefault(name, _handle("o", GREY, filling))


def _handle(marker: str, colour: str, filling: str) -> Any:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"linestyle": "none", "markersize": 6, "markeredgewidth": 1.2}
    return Line2D([], [], marker=marker, color=colour, markerfacecolor=filling, **look)


def _mark(axis: Any, row: SurvivalRow) -> None:
    if row.published is None or row.adaptive is None:
        return
    x, y, colour = row.published, row.adaptive, COLOUR[row.kind]
    for ends in _cross(x, y):
        axis.plot(*ends.T, color=colour, alpha=0.45, linewidth=0.7, zorder=2, solid_capstyle="butt")
    filling = colour if row.keeps else "white"
    look = {"linestyle": "none", "marker": MARKERS[row.kind], "markersize": 6, "markeredgewidth": 1.2, "zorder": 3}
    axis.plot([x.mean], [y.mean], color=colour, markerfacecolor=filling, **look)


def _cross(x: Interval, y: Interval) -> list[np.ndarray]:
    """Both intervals of a point, each ``[2, 2]`` from one end to the other."""
    return [np.array([(x.low, y.mean), (x.high, y.mean)]), np.array([(x.mean, y.low), (x.mean, y.high)])]


def _names(axis: Any, rows: Sequence[SurvivalRow], span: tuple[float, float]) -> None:
    """Write the name of each mark, where it covers nothing."""
    if not rows:
        return
    counts = Counter(row.label for row in rows)
    points, lines = dict[str, list[tuple[float, float]]](), list[np.ndarray]()
    for row in rows:
        if row.published is not None and row.adaptive is not None:
            text = row.label if counts[row.label] == 1 else row.name
            points.setdefault(plain(text, 24), []).append((row.published.mean, row.adaptive.mean))
            lines += _cross(row.published, row.adaptive)
    along = np.linspace(*span, PIECES + 1)
    lines += [np.array([(a, a), (b, b)]) for a, b in itertools.pairwise(along)]
    lines += [np.array([(span[0], 0.0), (span[1], 0.0)]), np.array([(0.0, span[0]), (0.0, span[1])])]
    write_labels(axis, points, lines)
