"""Figures from cells: PNG and PDF, and beside them a CSV with every point, its interval and its records.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; every series also has its own
marker.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advpt.evaluation import record as records
from advpt.evaluation.statistics import IMAGES_ONLY, accuracy_interval
from advpt.files import atomic_path, write_text
from advpt.results.index import RecordIndex
from advpt.results.layout import Cell, Figure, PointCell, TimeCurve
from advpt.results.render import to_csv
from advpt.results.values import Value, value
from advpt.tuning.progress import wall_clock

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # another number than colours: 56 series differ
HEADS = ("figure", "panel", "series", "label", "x", "x_low", "x_high", "y", "y_low", "y_high", "interval", "paper",
         "seeds", "images", "records")  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A drawn point: ``x`` and ``y`` with intervals, or the word in place of ``y``; the records behind both."""

    panel: str
    series: str
    label: str
    x: float
    x_low: float
    x_high: float
    y: Value
    ids: tuple[str, ...]

    @property
    def drawn(self) -> bool:
        return self.y.state == "value" and self.x == self.x


def points(figure: Figure, index: RecordIndex) -> list[Point]:
    """Every point of a figure, those without a number included."""
    found = [_point(mark, index) for mark in figure.point_cells]
    for clock in figure.time_curves:
        found += _clock(clock, index)
    return found


def _point(mark: PointCell, index: RecordIndex) -> Point:
    y = value(mark.y, index)
    if isinstance(mark.x, Cell):
        x = value(mark.x, index)
        if x.state != "value":
            return Point(mark.panel, mark.series, mark.label, float("nan"), 0, 0, Value(x.state, paper=y.paper), ())
        return Point(
            mark.panel, mark.series, mark.label, x.mean, x.low, x.high, y, tuple(dict.fromkeys((*x.ids, *y.ids)))
        )
    return Point(mark.panel, mark.series, mark.label, mark.x, mark.x, mark.x, y, y.ids)


def _clock(clock: TimeCurve, index: RecordIndex) -> list[Point]:
    """One point per measured epoch: means over the runs of the seconds so far and of the accuracy."""
    by_epoch: dict[int, list[tuple[int, float, dict[str, Any], str]]] = {}
    words, unknown, trained = [], False, False
    for run_id in clock.runs:
        run = index.runs.get(run_id)
        found = [r for r in index.of(run).values() if (r.result.get("training") or {}).get("curve")] if run else []
        if run is None or not found:
            words.append(
                "failed" if run and run.state == "failed" else "missing" if run and run.state == "done" else "not run"
            )
            continue
        record = found[0]
        index.used[record.id] = (record, run)
        trained = trained or records.is_trained(record.result)
        for row in record.result["training"]["curve"]:
            seconds = wall_clock(record.observed.get("training") or {}, row["epoch"])
            if seconds is None or clock.part not in row:
                unknown = True
                continue
            by_epoch.setdefault(row["epoch"], []).append((run.seed, seconds, row[clock.part], record.id))
    if unknown:
        index.note("missing", f"{clock.series}: nobody measured how long its training input took; build its bank anew")
    if not by_epoch:
        state = words[0] if words else "missing"
        return [Point(clock.panel, clock.series, "", float("nan"), 0, 0, Value(state), ())]
    drawn = []
    for epoch, rows in sorted(by_epoch.items()):
        seconds_, ids = [row[1] for row in rows], tuple(row[3] for row in rows)
        interval = accuracy_interval(records.runs({seed: part for seed, _, part, _ in rows}, trained))
        seeds = tuple(row[0] for row in rows)
        y = Value("value", interval.mean, interval.low, interval.high, seeds, interval.images, interval.scope, ids)
        x = sum(seconds_) / len(seconds_)
        drawn.append(Point(clock.panel, clock.series, f"epoch {epoch}", x, min(seconds_), max(seconds_), y, ids))
    return drawn


def table_of(figure: Figure, found: Sequence[Point]) -> str:
    """The CSV beside a figure."""
    lines = []
    for p in found:
        x = ["", "", ""] if p.x != p.x else [f"{v:.4g}" for v in (p.x, p.x_low, p.x_high)]
        y = [f"{v:.2f}" for v in (p.y.mean, p.y.low, p.y.high)] if p.y.state == "value" else [p.y.state, "", ""]
        seeds = " ".join(map(str, p.y.seeds))
        behind = [p.y.paper_text, seeds, p.y.images or "", " ".join(p.ids)]
        lines.append([figure.name, p.panel, p.series, p.label, *x, *y, p.y.over, *behind])
    return to_csv(HEADS, lines)


def draw(figure: Figure, found: Sequence[Point], folder: Path) -> list[Path]:
    """``<name>.png``, ``<name>.pdf`` and ``<name>.csv`` in ``folder``; panels without a number say so."""
    import matplotlib

    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every step of embedding a font in a PDF
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    panels = list(dict.fromkeys(p.panel for p in found)) or [""]
    series = list(dict.fromkeys(p.series for p in found))
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "pdf.fonttype": 42}):
        canvas = Canvas(figsize=(4.4 * across, 3.4 * down + 0.5), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(down, across, squeeze=False).ravel()
        for axis, panel in zip(axes, panels):
            mine = [p for p in found if p.panel == panel]
            axis.set_title(panel, fontsize=9)
            axis.set_xlabel(figure.x)
            axis.set_ylabel(figure.y)
            if not any(p.drawn for p in mine):
                words = ", ".join(sorted({p.y.state for p in mine})) or "no points"
                axis.text(0.5, 0.5, words, ha="center", va="center", transform=axis.transAxes)
                continue
            if figure.kind == "bars":
                _bars(axis, mine, series)
            else:
                _plot(axis, figure, mine, series)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        handles: dict[str, Any] = {}
        for axis in axes[: len(panels)]:
            for handle, label in zip(*axis.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        if handles:
            canvas.legend(
                handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)), fontsize=8
            )
        paths = []
        for kind in ("png", "pdf"):
            path = folder / f"{figure.name}.{kind}"
            with atomic_path(path) as partial:
                metadata = {"CreationDate": None} if kind == "pdf" else None
                canvas.savefig(partial, format=kind, dpi=150, metadata=metadata)
            paths.append(path)
    path = folder / f"{figure.name}.csv"
    write_text(path, table_of(figure, found))
    return [*paths, path]


def _style(series: Sequence[str], name: str) -> dict[str, Any]:
    place = list(series).index(name)
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def _legend(name: str, drawn: Sequence[Point]) -> str:
    """A series in the legend, with words where an interval is of the images alone."""
    return f"{name} ({IMAGES_ONLY})" if any(p.y.over == IMAGES_ONLY for p in drawn) else name


def _plot(axis: Any, figure: Figure, mine: Sequence[Point], series: Sequence[str]) -> None:
    for name in series:
        drawn = [p for p in mine if p.series == name and p.drawn]
        if not drawn:
            continue
        if figure.kind != "points":
            drawn = sorted(drawn, key=lambda p: p.x)
        x, y = [p.x for p in drawn], [p.y.mean for p in drawn]
        errors = [[max(0.0, p.y.mean - p.y.low) for p in drawn], [max(0.0, p.y.high - p.y.mean) for p in drawn]]
        wide = None
        if figure.kind == "points":
            wide = [[max(0.0, p.x - p.x_low) for p in drawn], [max(0.0, p.x_high - p.x) for p in drawn]]
        style = _style(series, name) | {"linestyle": "none" if figure.kind == "points" else "-"}
        style["label"] = _legend(name, drawn)
        axis.errorbar(x, y, yerr=errors, xerr=wide, capsize=2, markersize=5, linewidth=1.2, elinewidth=0.7, **style)
        if figure.kind == "points":
            for p in drawn:
                axis.annotate(p.label, (p.x, p.y.mean), textcoords="offset points", xytext=(5, 4), fontsize=7)
    if figure.log_x:
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(-2, 102)


def _bars(axis: Any, mine: Sequence[Point], series: Sequence[str]) -> None:
    labels = list(dict.fromkeys(p.label for p in mine))
    wide = 0.8 / max(1, len(series))
    for i, name in enumerate(series):
        style = _style(series, name)
        drawn = [p for p in mine if p.series == name and p.drawn]
        if not drawn:
            continue
        x = [labels.index(p.label) + (i - (len(series) - 1) / 2) * wide for p in drawn]
        errors = [[max(0.0, p.y.mean - p.y.low) for p in drawn], [max(0.0, p.y.high - p.y.mean) for p in drawn]]
        axis.bar(x, [p.y.mean for p in drawn], wide, color=style["color"], label=_legend(name, drawn))
        axis.errorbar(
            x, [p.y.mean for p in drawn], yerr=errors, fmt="none", ecolor="#333333", capsize=2, elinewidth=0.7
        )
        paper = [(at, p.y.paper) for at, p in zip(x, drawn) if p.y.paper is not None]
        if paper:
            axis.plot([at for at, _ in paper], [v for _, v in paper], linestyle="none", marker="_", color="black",
                      markersize=10, label="the paper")  # fmt: skip
    axis.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    axis.set_ylim(0, 102)


__all__ = ["Point", "draw", "points", "table_of"]
