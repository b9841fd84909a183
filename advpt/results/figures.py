"""Figures from cells: PNG and PDF, and beside them a CSV with every point, its interval and its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advpt.evaluation import record as records
from advpt.evaluation.intervals import IMAGES_ONLY
from advpt.evaluation.record import CleanAccuracy, TrainingTimes
from advpt.files import write_text
from advpt.results.canvas import ACROSS, COLOURS, MARKERS, blank, finish, plain, png, save, style
from advpt.results.exhibit import Cell, Figure, PointCell, TimeCurve
from advpt.results.index import RecordIndex
from advpt.results.labels import write_labels
from advpt.results.render import images_of, measured, to_csv
from advpt.results.values import Value, value

PANEL_HEIGHT, LABEL_HEIGHT = 3.4, 0.12  # inches, the second for each label of a scatter beyond a dozen
# Below figures, by kind.
READING = {
    "points": "Error bars are 95 % intervals; a grey line joins the points of one name. Up and right is better.",
    "lines": "Error bars are 95 % intervals.",
    "bars": "Error bars are 95 % intervals.",
}
TITLE_WIDTH, TICK_WIDTH = 55, 24  # letters, from which on a name is broken
HEADS = ("figure", "panel", "series", "label", "x", "x_low", "x_high", "y", "y_low", "y_high", "interval", "paper",
         "seeds", "images", "records")  # fmt: skip


@dataclass(frozen=True)
class DrawnPoint:
    """A point of a figure: ``x`` with its interval, ``y``, and the records behind both. Without a number ``x`` is None
    and ``y`` a word."""

    panel: str
    series: str
    label: str
    x: tuple[float, float, float] | None
    y: Value
    ids: tuple[str, ...]


def points(figure: Figure, index: RecordIndex) -> list[DrawnPoint]:
    """Every point of a figure, those without a number included."""
    drawn = [_point(point, index) for point in figure.point_cells]
    return drawn + [point for curve in figure.time_curves for point in _curve(curve, index)]


def _point(point: PointCell, index: RecordIndex) -> DrawnPoint:
    at, y = point.x, value(point.y, index)
    ids: tuple[str, ...] = ()
    if isinstance(at, Cell):
        x = value(at, index)
        if x.interval is None:
            return DrawnPoint(point.panel, point.series, point.label, None, Value(x.state, paper=y.paper), ())
        bounds, ids = (x.interval.mean, x.interval.low, x.interval.high), x.ids
    else:
        bounds = (at, at, at)
    return DrawnPoint(point.panel, point.series, point.label, bounds, y, tuple(dict.fromkeys((*ids, *y.ids))))


def summary(figure: Figure, points: Sequence[DrawnPoint]) -> str:
    """What a figure shows, for those who do not see it."""
    kind = {"points": "A scatter", "lines": "Lines", "bars": "Bars"}[figure.kind]
    series = ", ".join(dict.fromkeys(p.series for p in points))
    panels = ", ".join(filter(None, dict.fromkeys(p.panel for p in points)))
    numbers = [p.y.interval.mean for p in points if p.y.interval is not None]
    span = f" from {min(numbers):.1f} to {max(numbers):.1f}" if numbers else ", no number yet"
    parts = f" of {series}" + (f"; panels: {panels}" if panels else "")
    return f"{figure.title}. {kind}{parts}. {figure.y}{span} over {figure.x}. The CSV has every number."


def _curve(curve: TimeCurve, index: RecordIndex) -> list[DrawnPoint]:
    """One point per measured epoch: means over the runs of the seconds so far and of the accuracy."""
    by_epoch: dict[int, dict[int, tuple[float, CleanAccuracy, str]]] = defaultdict(dict)  # by seed, with record's id
    words, unknown, trained = [], False, False
    for run_id in curve.runs:
        record, state = index.first(run_id, lambda r: bool(r.result.training.curve), "record with a curve")
        if record is None:
            words.append(state)
            continue
        trained = trained or record.result.is_trained
        times = record.observed.training or TrainingTimes()
        for point in record.result.training.curve:
            seconds = times.until(point.epoch)
            accuracy = point.clean if curve.part == "clean" else point.robust
            if seconds is None or accuracy is None:
                unknown = True
            else:
                by_epoch[point.epoch][index.runs[run_id].seed] = (seconds, accuracy, record.id)
    if unknown:
        index.note("missing", f"{curve.series}: the time of its training input is not known; build its bank anew")
    if not by_epoch:
        return [DrawnPoint(curve.panel, curve.series, "", None, Value(words[0] if words else "missing"), ())]
    drawn = []
    for epoch, by_seed in sorted(by_epoch.items()):
        seconds_of, _, ids = zip(*by_seed.values())
        runs = records.runs({seed: accuracy for seed, (_, accuracy, _) in by_seed.items()}, trained)
        x = (sum(seconds_of) / len(seconds_of), min(seconds_of), max(seconds_of))
        drawn.append(DrawnPoint(curve.panel, curve.series, f"epoch {epoch}", x, Value("value", runs, ids), ids))
    return drawn


def comma_separated(figure: Figure, points: Sequence[DrawnPoint]) -> str:
    """The CSV beside a figure."""
    lines: list[list[object]] = []
    for p in points:
        x = [f"{v:.4g}" for v in p.x] if p.x is not None else ["", "", ""]
        lines.append([figure.name, p.panel, p.series, p.label, *x, *measured(p.y), *images_of(p.y), " ".join(p.ids)])
    return to_csv(HEADS, lines)


def draw(figure: Figure, points: Sequence[DrawnPoint], folder: Path) -> list[Path]:
    """``<name>.png``, ``<name>.pdf`` and ``<name>.csv`` in ``folder``; panels without a number say so."""
    with style():
        paths = save(compose(figure, points), folder, figure.name)
    path = folder / f"{figure.name}.csv"
    write_text(path, comma_separated(figure, points))
    return [*paths, path]


def narrow(figure: Figure, points: Sequence[DrawnPoint]) -> bytes:
    """The same as a PNG with its panels below each other; empty where there is one panel."""
    if len({p.panel for p in points}) < 2:
        return b""
    with style():
        return png(compose(figure, points, across=1))


def compose(figure: Figure, points: Sequence[DrawnPoint], across: int = ACROSS) -> Any:
    """The figure as matplotlib has it, inside :func:`~advpt.results.canvas.style`."""
    panels = list(dict.fromkeys(p.panel for p in points)) or [""]
    labels = {p.label for p in points} if figure.kind == "points" else set()
    canvas, axes = blank(len(panels), across, PANEL_HEIGHT + max(0, len(labels) - 12) * LABEL_HEIGHT)
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes, panels):
        _panel(axis, figure, panel, points, handles)
    finish(canvas, handles)
    if figure.kind == "points":
        for axis, panel in zip(axes, panels):
            _name_points(axis, [p for p in points if p.panel == panel and p.y.interval is not None])
    return canvas


def _panel(axis: Any, figure: Figure, panel: str, points: Sequence[DrawnPoint], handles: dict[str, Any]) -> None:
    axis.set_title(plain(panel, TITLE_WIDTH), fontsize=9)
    axis.set_xlabel(figure.x)
    axis.set_ylabel(figure.y)
    series = list(dict.fromkeys(p.series for p in points))
    points = [p for p in points if p.panel == panel]
    if not any(p.y.interval for p in points):
        words = ", ".join(sorted({p.y.state for p in points})) or "no points"
        axis.text(0.5, 0.5, words, ha="center", va="center", transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return
    labels = list(dict.fromkeys(p.label for p in points))
    wide = 0.8 / max(1, len(series))
    for place, name in enumerate(series):
        drawn = [p for p in points if p.series == name and p.y.interval is not None]
        if drawn and figure.kind == "bars":
            at = np.array([labels.index(p.label) + (place - (len(series) - 1) / 2) * wide for p in drawn])
            handles.update(_bars(axis, place, drawn, at, wide))
        elif drawn:
            handles[_label(drawn)] = _plot(axis, place, drawn, scatter=figure.kind == "points")
    if figure.kind == "bars":
        axis.set_xticks(range(len(labels)), [plain(label, TICK_WIDTH) for label in labels])
    if figure.log_x:
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(0 if figure.kind == "bars" else -2, 102)


def _label(drawn: Sequence[DrawnPoint]) -> str:
    """A series in the legend, with words where an interval is of the images alone."""
    images_only = any(p.y.interval is not None and p.y.interval.images_only for p in drawn)
    return f"{drawn[0].series} ({IMAGES_ONLY})" if images_only else drawn[0].series


def _bounds(drawn: Sequence[DrawnPoint]) -> np.ndarray:
    """``[points, 3]`` mean, low and high of the accuracies."""
    return np.array([(i.mean, i.low, i.high) for p in drawn if (i := p.y.interval) is not None])


def _errors(bounds: np.ndarray) -> np.ndarray:
    """``[2, points]`` lengths of error bars below and above, from mean, low and high."""
    mean, low, high = bounds.T
    return np.maximum(0.0, [mean - low, high - mean])


def _plot(axis: Any, place: int, drawn: Sequence[DrawnPoint], *, scatter: bool) -> Any:
    """Draw a series; its handle for the legend."""
    if not scatter:
        drawn = sorted(drawn, key=lambda p: p.x or ())
    x, y = np.array([p.x for p in drawn]), _bounds(drawn)
    return axis.errorbar(
        x[:, 0],
        y[:, 0],
        yerr=_errors(y),
        xerr=_errors(x) if scatter else None,
        capsize=0 if scatter else 2,
        markersize=5,
        linewidth=1.2,
        elinewidth=0.5 if scatter else 0.7,
        linestyle="none" if scatter else "-",
        color=COLOURS[place % len(COLOURS)],
        marker=MARKERS[place % len(MARKERS)],
    )


def _bars(axis: Any, place: int, drawn: Sequence[DrawnPoint], x: np.ndarray, wide: float) -> dict[str, Any]:
    """Draw a series; its handles for the legend."""
    y = _bounds(drawn)
    handles: dict[str, Any] = {_label(drawn): axis.bar(x, y[:, 0], wide, color=COLOURS[place % len(COLOURS)])}
    axis.errorbar(x, y[:, 0], yerr=_errors(y), fmt="none", ecolor="#333333", capsize=2, elinewidth=0.7)
    paper = [(at, p.y.paper) for at, p in zip(x, drawn) if p.y.paper is not None]
    if paper:
        look = {"linestyle": "none", "marker": "_", "color": "black", "markersize": 10}
        (handles["the paper"],) = axis.plot(*zip(*paper), **look)
    return handles


def _name_points(axis: Any, points: Sequence[DrawnPoint]) -> None:
    """Join the points of each label by a grey line, and write the label once, where it covers nothing."""
    by_label: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for p in points:
        if p.label and p.x is not None and p.y.interval is not None:
            by_label[p.label].append((p.x[0], p.y.interval.mean))
    if not by_label:
        return
    for at in by_label.values():
        axis.plot(*zip(*at), color="#aaaaaa", linewidth=0.6, zorder=1)
    bars = [line for p in points if p.x is not None for line in _error_bars(p.x, _bounds([p])[0])]
    write_labels(axis, {plain(label, TICK_WIDTH): at for label, at in by_label.items()}, bars)


def _error_bars(x: Sequence[float], y: Sequence[float]) -> list[np.ndarray]:
    """Both error bars of a point, each ``[2, 2]`` from one end to the other; ``x``, ``y``: mean, low and high."""
    return [np.array([(x[1], y[0]), (x[2], y[0])]), np.array([(x[0], y[1]), (x[0], y[2])])]
