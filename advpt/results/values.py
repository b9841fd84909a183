"""Cells to numbers: means over seeds with their intervals, the published number beside them, the records behind
them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advpt.evaluation.record import outcome
from advpt.evaluation.statistics import Difference, paired_bootstrap
from advpt.results.layout import Cell, Table
from advpt.results.published import number
from advpt.results.shelf import Shelf, part

# Student's t, 97.5 %, for 1, 2, ... degrees of freedom; the normal's beyond.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
        2.042)  # fmt: skip
WORDS = ("not run", "failed", "missing", "refused")
NO_CELL = "n/a"
WARNED = "warning, see notes"


@dataclass(frozen=True)
class Value:
    """A number as it is printed. ``state`` is ``value`` or the word that stands in its place.

    mean, low, high: percent, with the 95 % interval: of the images for one seed (Wilson), over seeds for several (t).
    ids: of the records behind it, one per seed. paper: the published number, None where the paper has no such cell.
    better: a paired interval over the same images and seeds says that it is above its rivals.
    """

    state: str
    mean: float = 0.0
    low: float = 0.0
    high: float = 0.0
    seeds: tuple[int, ...] = ()
    images: int = 0
    ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    untouched: float = 0.0
    on_perturbed: float | None = None
    comparable: bool | None = True  # None: nobody knows whether the data are the official ones
    paper: float | None = None
    better: bool = False
    parts: tuple[tuple[int, Any], ...] = dataclasses.field(default=(), compare=False, repr=False)
    images_digest: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, in points."""
        return self.mean - self.paper if self.state == "value" and self.paper is not None else None

    @property
    def text(self) -> str:
        """``87.6 [85.1, 90.0]`` or the word for why there is no number."""
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]" if self.state == "value" else self.state

    @property
    def paper_text(self) -> str:
        return NO_CELL if self.paper is None else f"{self.paper:.1f}"

    @property
    def difference_text(self) -> str:
        return "" if self.difference is None else f"{self.difference:+.1f}"


def over_seeds(accuracies: Sequence[float]) -> tuple[float, float]:
    """95 % interval in percent of the mean of several seeds (Student's t), cut at 0 and 100."""
    n, values = len(accuracies), np.asarray(accuracies, dtype=np.float64)
    t = T975[n - 2] if n - 2 < len(T975) else 1.96
    half = t * float(values.std(ddof=1)) / math.sqrt(n)
    return max(0.0, float(values.mean()) - half), min(100.0, float(values.mean()) + half)


def value(cell: Cell | None, shelf: Shelf) -> Value:
    """What stands in a cell."""
    if cell is None:
        return Value(NO_CELL)
    published = number(cell.paper)
    parts: list[tuple[int, dict[str, Any]]] = []
    ids, notes, words, digests = [], [], [], set()
    official: set[bool | None] = set()
    for run_id in cell.runs:
        record, state = shelf.find(run_id, cell.which)
        seed = shelf.runs[run_id].seed if run_id in shelf.runs else -1
        if record is None:
            words.append(state)
            notes.append(f"seed {seed}: {state}" if seed >= 0 else state)
            continue
        parts.append((seed, part(record, cell.which)))
        ids.append(record.id)
        digests.add((record.result.get("images") or {}).get("digest", ""))
        official.add(record.result.get("comparable", True))
        for text in record.result.get("warnings", []):
            notes += [WARNED] if WARNED not in notes else []
            shelf.note("warning", f"{shelf.runs[run_id].label or run_id}: {text}")
    if not parts:
        worst = next((w for w in ("failed", "refused", "missing", "not run") if w in words), "not run")
        return Value(worst, paper=published)
    if len(digests) > 1:
        notes.append("the seeds saw different images")
    accuracies = [float(found["accuracy"]) for _, found in parts]
    low, high = (float(v) for v in parts[0][1]["interval95"])
    if len(accuracies) > 1 and len(set(accuracies)) > 1:
        low, high = over_seeds(accuracies)
    perturbed = [found["on_perturbed"]["accuracy"] for _, found in parts if found.get("on_perturbed")]
    return Value(
        "value",
        float(np.mean(accuracies)),
        low,
        high,
        tuple(seed for seed, _ in parts),
        int(parts[0][1]["n"]),
        tuple(ids),
        tuple(notes),
        float(np.mean([found.get("untouched", 0.0) for _, found in parts])),
        float(np.mean(perturbed)) if perturbed else None,
        False if False in official else None if None in official else True,
        published,
        parts=tuple(parts),
        images_digest=digests.pop() if len(digests) == 1 else "",
    )


def compare(one: Value, other: Value) -> Difference | None:
    """Paired difference ``one - other`` over common seeds and the same images; a single run is paired with all
    seeds."""
    if one.state != "value" or other.state != "value" or not one.images_digest:
        return None
    if one.images_digest != other.images_digest or one.images != other.images:
        return None
    a, b = dict(one.parts), dict(other.parts)
    if any("outcome" not in found for found in (*a.values(), *b.values())):
        return None
    if len(a) == 1 or len(b) == 1:
        seeds = sorted(a if len(a) >= len(b) else b)
    else:
        seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None

    def stack(parts: dict[int, Any]) -> np.ndarray:
        only = next(iter(parts.values()))
        return np.stack([outcome(parts.get(seed, only)) for seed in seeds])

    return paired_bootstrap(stack(a), stack(b), draws=2000)


def fill(table: Table, shelf: Shelf) -> list[list[Value]]:
    """The numbers of a table, row by row; ``better`` is set where one method beats every other that was run."""
    values = [[value(cell, shelf) for cell in row.cells] for row in table.rows]
    for column in range(len(table.columns)):
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, row in enumerate(table.rows):
            groups.setdefault(row.rivals, []).append(i)
        for members in groups.values():
            for i in members:
                others = [values[j][column] for j in members if j != i and values[j][column].state == "value"]
                gains = [compare(values[i][column], other) for other in others]
                if gains and all(gain is not None and gain.low > 0 for gain in gains):
                    values[i][column] = dataclasses.replace(values[i][column], better=True)
    return values
