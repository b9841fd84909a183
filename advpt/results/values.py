"""Records to numbers: means over seeds with their intervals, the published number beside them, the records behind
them. The one place where the spread of a number is stated and two methods are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from advpt.data.zero_shot import COOP
from advpt.detectors import UNTUNED
from advpt.evaluation import record as records
from advpt.evaluation.defended import inexact_gradient
from advpt.evaluation.intervals import Interval, Runs, accuracy_interval, difference
from advpt.evaluation.record import Record
from advpt.results.exhibit import Cell, Table
from advpt.results.index import RecordIndex
from advpt.results.published import PaperCell, number

NO_CELL = "n/a"
WARNED = "warning, see notes"
# Forward and backward passes through the image tower, and through the text tower for all classes.
PASSES = {"forward": "F", "backward": "B", "text_forward": "f", "text_backward": "b"}


@dataclass(frozen=True)
class Value:
    """A number of a table, or (``runs`` None) the word in its place.

    Args:
        state: ``value`` or the word.
        runs: by seed, the accuracies that the number is the mean of.
        ids: of the records behind it, one per seed.
        notes: what stands beside it in brackets.
        untouched, on_perturbed: percent of the images that the attack did not change, and accuracy on the others.
        comparable: whether the data are the official ones; None: not known.
        paper: the published number, None where the paper has no such cell.
        better: the differences to all comparable methods are significant, and it is above them.
        images: SHA-256 of the list of images, "" where runs have different ones.
        passes, milliseconds: per image, of a defense at test time; "" and None where they were not measured.
    """

    state: str
    runs: Runs | None = field(default=None, compare=False, repr=False)
    ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    untouched: float = 0.0
    on_perturbed: float | None = None
    comparable: bool | None = True
    paper: float | None = None
    better: bool = False
    images: str = ""
    passes: str = ""
    milliseconds: float | None = None

    @cached_property
    def interval(self) -> Interval | None:
        """The mean over seeds and its 95 % interval, None for a word."""
        return accuracy_interval(self.runs) if self.runs is not None else None

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.runs.seeds if self.runs is not None else ()

    @property
    def mean_text(self) -> str:
        """``87.6`` or the word for why there is no number."""
        return f"{self.interval.mean:.1f}" if self.interval is not None else self.state

    @property
    def interval_text(self) -> str:
        """``[85.1, 90.0]``, with words where it is of the images alone."""
        return self.interval.bounds if self.interval is not None else ""

    @property
    def untouched_text(self) -> str:
        others = "" if self.on_perturbed is None else f", {self.on_perturbed:.1f} on the others"
        return f"{self.untouched:.0f} % untouched{others}" if self.untouched else ""

    @property
    def paper_text(self) -> str:
        return NO_CELL if self.paper is None else f"{self.paper:.1f}"

    @property
    def difference_text(self) -> str:
        """Ours minus the paper's, in points."""
        if self.interval is None or self.paper is None:
            return ""
        return f"{self.interval.mean - self.paper:+.1f}"


def passes_text(cost: Mapping[str, float] | None) -> str:
    """``64 F, 2 f, 1 b``: passes per image, in the letters of :data:`PASSES`."""
    return ", ".join(f"{number:g} {letter}" for name, letter in PASSES.items() if (number := (cost or {}).get(name)))


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods (``names``) in an accuracy (``accuracy``: its words)."""

    names: str
    accuracy: str
    interval: Interval


@dataclass
class FilledTable:
    """A table with its values, row by row, and the comparisons and warnings below it.

    Args:
        bold: values that are better than all others are marked. sentences: what the numbers say, above the table.
        extra: by head, a text for each row before its values. below: sentences below the table.
        names: by head, what names each row, where that is not what its :class:`~advpt.results.exhibit.TableRow` says.
    """

    table: Table
    values: list[list[Value]]
    comparisons: list[Comparison] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    bold: bool = True
    sentences: list[str] = field(default_factory=list)
    extra: dict[str, list[str]] = field(default_factory=dict)
    below: list[str] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def has_cost(self) -> bool:
        """Whether the cost of any row is known."""
        return any(value.passes or value.milliseconds is not None for line in self.values for value in line)

    def cost(self, line: Sequence[Value]) -> list[str]:
        """Passes and milliseconds per image of a row."""
        passes = next((value.passes for value in line if value.passes), "")
        times = [value.milliseconds for value in line if value.milliseconds is not None]
        return [passes, f"{times[0]:.3g}" if times else ""]

    @property
    def has_paper(self) -> bool:
        """Whether the paper prints any of its numbers."""
        return any(value.paper is not None for line in self.values for value in line)

    @property
    def attacks(self) -> dict[str, str]:
        """The exact form of each attack by the words that stand for it."""
        attacks = dict(self.table.attacks)
        for row in self.table.rows:
            exact = {cell.metric.attack for cell in row.cells if cell is not None} - {"", row.attack}
            if exact:
                attacks.setdefault(row.attack, ", ".join(sorted(exact)))
        return attacks

    def seeds(self, line: Sequence[Value]) -> str:
        """Seeds of a row."""
        return listed({seed for value in line for seed in value.seeds}) or "-"


def listed(seeds: Iterable[int]) -> str:
    """``1,2,5``, and ``1-10`` for a row of numbers without a gap."""
    ordered = sorted(seeds)
    if len(ordered) > 3 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}-{ordered[-1]}"
    return ",".join(map(str, ordered))


def summarize(by_seed: Mapping[int, Record], robust: bool, notes: Sequence[str] = ()) -> Value:
    """The clean or robust accuracy of one method over its seeds.

    Args:
        by_seed: at least one record. notes: what stands beside the number before the notes made here.
    """
    results = [record.result for record in by_seed.values()]
    attacked = [result.robust for result in results if robust and result.robust is not None]
    parts = dict(zip(by_seed, attacked if robust else [result.clean for result in results], strict=True))
    runs = records.runs(parts, any(result.is_trained for result in results))
    beside = list(notes)
    if len(results) == 1 and (deviation := next(iter(parts.values())).deviation):
        beside.append(f"± {deviation:.1f} over draws")
    beside += [flag for result in results for flag in (result.flags if robust else ())]
    if robust:
        beside += [inexact_gradient(result.defense) for result in results]
    digests = {result.images.digest for result in results}
    if len(digests) > 1:
        beside.append("the seeds have different images")
        runs = dataclasses.replace(runs, correct={})
    official = {result.comparable for result in results}
    times = [each for record in by_seed.values() if (each := record.observed.milliseconds) is not None]
    perturbed = [each.on_perturbed.accuracy for each in attacked if each.on_perturbed is not None]
    return Value(
        "value",
        runs,
        tuple(record.id for record in by_seed.values()),
        tuple(note for note in dict.fromkeys(beside) if note),
        untouched=float(np.mean([each.untouched for each in attacked])) if attacked else 0.0,
        on_perturbed=float(np.mean(perturbed)) if perturbed else None,
        comparable=False if False in official else None if None in official else True,
        images=digests.pop() if len(digests) == 1 else "",
        passes=passes_text(results[0].cost),
        milliseconds=float(np.mean(times)) if times else None,
    )


def value(cell: Cell | None, index: RecordIndex) -> Value:
    """What stands in a cell."""
    if cell is None:
        return Value(NO_CELL)
    by_seed: dict[int, Record] = {}
    absent: list[tuple[int | None, str]] = []
    for run_id in cell.runs:
        record, state = index.find(run_id, cell.metric)
        seed = index.runs[run_id].seed if run_id in index.runs else None
        if record is not None and seed is not None:
            by_seed[seed] = record
        else:
            absent.append((seed, state))
    return of_seeds(by_seed, absent, cell.metric.protocol is not None, cell.paper)


def of_seeds(
    by_seed: Mapping[int, Record],
    absent: Sequence[tuple[int | None, str]],
    robust: bool,
    paper: PaperCell | None = None,
) -> Value:
    """The number of the seeds that have a record, or the word for why none has one.

    Args:
        absent: of the other seeds (None: not known) the word for why. robust: under the attack, not clean.
        paper: where a paper prints it.
    """
    if not by_seed:
        words = [word for _, word in absent]
        worst = next((word for word in ("failed", "refused", "missing") if word in words), "not run")
        return Value(NO_CELL if words and set(words) == {NO_CELL} else worst, paper=number(paper))
    notes = [word if seed is None else f"seed {seed}: {word}" for seed, word in absent]
    for record in by_seed.values():
        notes += [UNTUNED if text.startswith(UNTUNED) else WARNED for text in record.result.warnings]
    theirs = any(record.result.config.get("DATASET.PROTOCOL", COOP) != COOP for record in by_seed.values())
    return dataclasses.replace(summarize(by_seed, robust, notes), paper=None if theirs else number(paper))


def compare(one: Value, other: Value) -> Interval | None:
    """The difference ``one - other`` in points; None where there is none on the same images."""
    if one.runs is None or other.runs is None or not one.runs.correct or not other.runs.correct:
        return None
    if one.images != other.images or not one.runs.images == other.runs.images > 0:
        return None
    return difference(one.runs, other.runs)


def fill(table: Table, index: RecordIndex) -> FilledTable:
    """The numbers of a table; ``better`` is set where one method beats every other that was run."""
    values = [[value(cell, index) for cell in row.cells] for row in table.rows]
    for i, row in enumerate(table.rows):
        rivals = [j for j, other in enumerate(table.rows) if j != i and other.comparable == row.comparable]
        for column, ours in enumerate(values[i]):
            others = [values[j][column] for j in rivals if values[j][column].runs is not None]
            gains = [compare(ours, other) for other in others]
            if gains and all(gain is not None and gain.significant and gain.mean > 0 for gain in gains):
                values[i][column] = dataclasses.replace(ours, better=True)
    return FilledTable(table, values)
