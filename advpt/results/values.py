"""Cells to numbers: means over seeds with their intervals, the published number beside them, the records behind
them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from advpt.detectors import UNTUNED
from advpt.evaluation import record as records
from advpt.evaluation.defended import inexact_gradient
from advpt.evaluation.statistics import IMAGES_ONLY, Interval, Runs, accuracy_interval, bounds_text, difference
from advpt.results.index import RecordIndex, part
from advpt.results.layout import Cell, Table
from advpt.results.published import number

WORDS = ("not run", "failed", "missing", "refused")
NO_CELL = "n/a"
WARNED = "warning, see notes"


@dataclass(frozen=True)
class Value:
    """A number as it is printed. ``state`` is ``value`` or the word that stands in its place.

    mean, low, high: percent, with the 95 % interval of :func:`advpt.evaluation.statistics.accuracy_interval`.
    over: what the interval is over, in words.
    ids: of the records behind it, one per seed. paper: the published number, None where the paper has no such cell.
    better: the differences to all its rivals are significant, and it is above them.
    """

    state: str
    mean: float = 0.0
    low: float = 0.0
    high: float = 0.0
    seeds: tuple[int, ...] = ()
    images: int = 0
    over: str = ""
    ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    untouched: float = 0.0
    on_perturbed: float | None = None
    comparable: bool | None = True  # None: whether the data are the official ones is not known
    paper: float | None = None
    better: bool = False
    runs: Runs | None = dataclasses.field(default=None, compare=False, repr=False)
    images_digest: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in points."""
        return self.mean - self.paper if self.state == "value" and self.paper is not None else None

    @property
    def text(self) -> str:
        """``87.6 [85.1, 90.0]`` or the word for why there is no number."""
        return f"{self.mean:.1f} {self.interval_text}" if self.state == "value" else self.state

    @property
    def interval_text(self) -> str:
        """The interval alone."""
        return bounds_text(self.low, self.high, self.over == IMAGES_ONLY)

    @property
    def paper_text(self) -> str:
        return NO_CELL if self.paper is None else f"{self.paper:.1f}"

    @property
    def difference_text(self) -> str:
        return "" if self.difference is None else f"{self.difference:+.1f}"


def value(cell: Cell | None, index: RecordIndex) -> Value:
    """What stands in a cell."""
    if cell is None:
        return Value(NO_CELL)
    published = number(cell.paper)
    parts: list[tuple[int, dict[str, Any]]] = []
    ids, notes, words, digests = [], [], [], set()
    trained = False
    official: set[bool | None] = set()
    for run_id in cell.runs:
        record, state = index.find(run_id, cell.metric)
        seed = index.runs[run_id].seed if run_id in index.runs else -1
        if record is None:
            words.append(state)
            notes.append(f"seed {seed}: {state}" if seed >= 0 else state)
            continue
        parts.append((seed, part(record, cell.metric)))
        ids.append(record.id)
        digests.add((record.result.get("images") or {}).get("digest", ""))
        official.add(record.result.get("comparable", True))
        trained = trained or records.is_trained(record.result)
        word = inexact_gradient(record.result.get("defense")) if cell.metric.protocol is not None else ""
        notes += [word] if word and word not in notes else []
        for text in record.result.get("warnings", []):
            note = UNTUNED if text.startswith(UNTUNED) else WARNED
            notes += [note] if note not in notes else []
            index.note("warning", f"{index.runs[run_id].label or run_id}: {text}")
    if not parts:
        worst = next((w for w in ("failed", "refused", "missing", "not run") if w in words), "not run")
        return Value(worst, paper=published)
    if len(digests) > 1:
        notes.append("the seeds saw different images")
    runs = records.runs(dict(parts), trained)
    if len(digests) > 1:
        runs = dataclasses.replace(runs, correct={})
    interval = accuracy_interval(runs)
    perturbed = [found["on_perturbed"]["accuracy"] for _, found in parts if found.get("on_perturbed")]
    return Value(
        "value",
        interval.mean,
        interval.low,
        interval.high,
        tuple(seed for seed, _ in parts),
        interval.images,
        interval.scope,
        tuple(ids),
        tuple(notes),
        float(np.mean([found.get("untouched", 0.0) for _, found in parts])),
        float(np.mean(perturbed)) if perturbed else None,
        False if False in official else None if None in official else True,
        published,
        runs=runs,
        images_digest=digests.pop() if len(digests) == 1 else "",
    )


def compare(one: Value, other: Value) -> Interval | None:
    """The difference ``one - other``; None where there is none on the same images."""
    if one.runs is None or other.runs is None or not one.images_digest:
        return None
    if one.images_digest != other.images_digest or not one.images == other.images > 0:
        return None
    return difference(one.runs, other.runs) if one.runs.correct and other.runs.correct else None


def fill(table: Table, index: RecordIndex) -> list[list[Value]]:
    """The numbers of a table, row by row; ``better`` is set where one method beats every other that was run."""
    values = [[value(cell, index) for cell in row.cells] for row in table.rows]
    for column in range(len(table.columns)):
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, row in enumerate(table.rows):
            groups.setdefault(row.rivals, []).append(i)
        for members in groups.values():
            for i in members:
                others = [values[j][column] for j in members if j != i and values[j][column].state == "value"]
                gains = [compare(values[i][column], other) for other in others]
                if gains and all(gain is not None and gain.significant and gain.mean > 0 for gain in gains):
                    values[i][column] = dataclasses.replace(values[i][column], better=True)
    return values
