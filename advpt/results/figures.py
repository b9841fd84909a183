"""Figures from cells: PNG and PDF, and beside them a CSV with every point, its interval and its records.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; every series also has its own
marker.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advpt.evaluation import record as records
from advpt.evaluation.intervals import IMAGES_ONLY, Interval
from advpt.evaluation.record import CleanAccuracy, TrainingTimes
from advpt.files import atomic_path, write_text
from advpt.results.exhibit import Cell, Figure, PointCell, TimeCurve
from advpt.results.index import RecordIndex
from advpt.results.render import to_csv
from advpt.results.values import Value, value

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # another number than colours: 56 series differ
HEADS = ("figure", "panel", "series", "label", "x", "x_low", "x_high", "y", "y_low", "y_high", "interval", "paper",
         "seeds", "images", "records")  # fmt: skip


@dataclass(frozen=True)
class DrawnPoint:
    """A point of a figure: ``x`` with its interval (None: there is none), ``y``, and the records behind both."""

    panel: str
    series: str
    label: str
    x: tuple[float, float, float] | None
    y: Value
    ids: tuple[str, ...]

    @property
    def interval(self) -> Interval | None:
        """The mean and interval to draw; None where a word stands in the place of a number."""
        return self.y.interval if self.x is not None else None


def points(figure: Figure, index: RecordIndex) -> list[DrawnPoint]:
    """Every point of a figure, those without a number included."""
    drawn = [_point(point, index) for point in figure.point_cells]
    return drawn + [point for curve in figure.time_curves for point in _curve(curve, index)]


def _point(point: PointCell, index: RecordIndex) -> DrawnPoint:
    y = value(point.y, index)
    if not isinstance(point.x, Cell):
        return DrawnPoint(point.panel, point.series, point.label, (point.x,) * 3, y, y.ids)
    x = value(point.x, index)
    if x.interval is None:
        return DrawnPoint(point.panel, point.series, point.label, None, Value(x.state, paper=y.paper), ())
    ids = tuple(dict.fromkeys((*x.ids, *y.ids)))
    return DrawnPoint(
        point.panel, point.series, point.label, (x.interval.mean, x.interval.low, x.interval.high), y, ids
    )


def _curve(curve: TimeCurve, index: RecordIndex) -> list[DrawnPoint]:
    """One point per measured epoch: means over the runs of the seconds so far and of the accuracy."""
    by_epoch: dict[int, dict[int, tuple[float, CleanAccuracy, str]]] = defaultdict(
        dict
    )  # by seed: seconds, accuracy, id
    words, unknown, trained = [], False, False
    for run_id in curve.runs:
        run = index.runs.get(run_id)
        record = next((r for r in index.of(run).values() if r.result.training.curve), None) if run else None
        if run is None or record is None:
            words.append(index.why_missing(run, "record with a curve"))
            continue
        index.use(record, run.label)
        trained = trained or record.result.is_trained
        times = record.observed.training or TrainingTimes()
        for measured in record.result.training.curve:
            seconds = times.until(measured.epoch)
            accuracy = measured.clean if curve.part == "clean" else measured.robust
            if seconds is None or accuracy is None:
                unknown = True
            else:
                by_epoch[measured.epoch][run.seed] = (seconds, accuracy, record.id)
    if unknown:
        index.note("missing", f"{curve.series}: the time of its training input is not known; build its bank anew")
    if not by_epoch:
        return [DrawnPoint(curve.panel, curve.series, "", None, Value(words[0] if words else "missing"), ())]
    drawn = []
    for epoch, by_seed in sorted(by_epoch.items()):
        times_, ids = [each[0] for each in by_seed.values()], tuple(each[2] for each in by_seed.values())
        runs = records.runs({seed: accuracy for seed, (_, accuracy, _) in by_seed.items()}, trained)
        x = (sum(times_) / len(times_), min(times_), max(times_))
        drawn.append(DrawnPoint(curve.panel, curve.series, f"epoch {epoch}", x, Value("value", runs, ids), ids))
    return drawn


def comma_separated(figure: Figure, points: Sequence[DrawnPoint]) -> str:
    """The CSV beside a figure."""
    lines: list[list[object]] = []
    for p in points:
        x = [f"{v:.4g}" for v in p.x] if p.x is not None else ["", "", ""]
        y, interval = [p.y.state, "", "", ""], p.y.interval
        if interval is not None:
            y = [f"{interval.mean:.2f}", f"{interval.low:.2f}", f"{interval.high:.2f}", interval.scope]
        images = p.y.runs.images if p.y.runs is not None else ""
        behind = [p.y.paper_text, " ".join(map(str, p.y.seeds)), images, " ".join(p.ids)]
        lines.append([figure.name, p.panel, p.series, p.label, *x, *y, *behind])
    return to_csv(HEADS, lines)


def draw(figure: Figure, points: Sequence[DrawnPoint], folder: Path) -> list[Path]:
    """``<name>.png``, ``<name>.pdf`` and ``<name>.csv`` in ``folder``; panels without a number say so."""
    import matplotlib

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every step of embedding a font in a PDF
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    panels = list(dict.fromkeys(p.panel for p in points)) or [""]
    series = list(dict.fromkeys(p.series for p in points))
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "pdf.fonttype": 42}):
        canvas = Canvas(figsize=(4.4 * across, 3.4 * down + 0.5), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(down, across, squeeze=False).ravel()
        handles: dict[str, Any] = {}
        for axis, panel in zip(axes, panels):
            _panel(axis, figure, panel, [p for p in points if p.panel == panel], series)
            handles |= {
                label: handle for handle, label in zip(*axis.get_legend_handles_labels()) if label not in handles
            }
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        if handles:
            columns = min(4, len(handles))
            canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8)
        paths = [folder / f"{figure.name}.{kind}" for kind in ("png", "pdf")]
        for path in paths:
            with atomic_path(path) as partial:
                metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
                canvas.savefig(partial, format=path.suffix[1:], dpi=150, metadata=metadata)
    path = folder / f"{figure.name}.csv"
    write_text(path, comma_separated(figure, points))
    return [*paths, path]


def _panel(axis: Any, figure: Figure, title: str, points: Sequence[DrawnPoint], series: Sequence[str]) -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(figure.x)
    axis.set_ylabel(figure.y)
    if not any(p.interval for p in points):
        words = ", ".join(sorted({p.y.state for p in points})) or "no points"
        axis.text(0.5, 0.5, words, ha="center", va="center", transform=axis.transAxes)
    elif figure.kind == "bars":
        _bars(axis, points, series)
    else:
        _plot(axis, figure, points, series)


def _drawn(points: Sequence[DrawnPoint], name: str) -> list[tuple[DrawnPoint, Interval, tuple[float, float, float]]]:
    """The points of a series that have a number, with both intervals."""
    return [(p, p.interval, p.x) for p in points if p.series == name and p.interval is not None and p.x is not None]


def _label(name: str, intervals: Sequence[Interval]) -> str:
    """A series in the legend, with words where an interval is of the images alone."""
    return f"{name} ({IMAGES_ONLY})" if any(interval.images_only for interval in intervals) else name


def _errors(middles_and_ends: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """Lengths of error bars below and above, from (mean, low, high)."""
    return [
        [max(0.0, m - low) for m, low, _ in middles_and_ends],
        [max(0.0, high - m) for m, _, high in middles_and_ends],
    ]


def _plot(axis: Any, figure: Figure, points: Sequence[DrawnPoint], series: Sequence[str]) -> None:
    scatter = figure.kind == "points"
    for place, name in enumerate(series):
        drawn = _drawn(points, name)
        if not drawn:
            continue
        if not scatter:
            drawn = sorted(drawn, key=lambda each: each[2])
        x, y = [each[2] for each in drawn], [(i.mean, i.low, i.high) for _, i, _ in drawn]
        axis.errorbar(
            [mean for mean, _, _ in x],
            [mean for mean, _, _ in y],
            yerr=_errors(y),
            xerr=_errors(x) if scatter else None,
            capsize=2,
            markersize=5,
            linewidth=1.2,
            elinewidth=0.7,
            linestyle="none" if scatter else "-",
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            label=_label(name, [interval for _, interval, _ in drawn]),
        )
        for p, interval, at in drawn if scatter else ():
            axis.annotate(p.label, (at[0], interval.mean), textcoords="offset points", xytext=(5, 4), fontsize=7)
    if figure.log_x:
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(-2, 102)


def _bars(axis: Any, points: Sequence[DrawnPoint], series: Sequence[str]) -> None:
    labels = list(dict.fromkeys(p.label for p in points))
    wide = 0.8 / max(1, len(series))
    for i, name in enumerate(series):
        drawn = _drawn(points, name)
        if not drawn:
            continue
        x = [labels.index(p.label) + (i - (len(series) - 1) / 2) * wide for p, _, _ in drawn]
        y = [(interval.mean, interval.low, interval.high) for _, interval, _ in drawn]
        means = [mean for mean, _, _ in y]
        label = _label(name, [interval for _, interval, _ in drawn])
        axis.bar(x, means, wide, color=COLOURS[i % len(COLOURS)], label=label)
        axis.errorbar(x, means, yerr=_errors(y), fmt="none", ecolor="#333333", capsize=2, elinewidth=0.7)
        paper = [(at, p.y.paper) for at, (p, _, _) in zip(x, drawn) if p.y.paper is not None]
        if paper:
            axis.plot(*zip(*paper), linestyle="none", marker="_", color="black", markersize=10, label="the paper")
    axis.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axis.set_ylim(0, 102)
