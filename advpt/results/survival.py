"""Who keeps a gain: of each row of a benchmark, the gain over the row without its method as its authors measure it, and
against an attacker who knows it, on the same images, with paired intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from advpt.defenses.base import DEFENSES
from advpt.evaluation.intervals import MIN_SEEDS, Interval, Runs, difference
from advpt.evaluation.record import Record
from advpt.results.benchmark import OUTSIDE, Measured, MeasuredRow, authors, authors_attack, full, measured
from advpt.results.exhibit import BenchmarkRow, BenchmarkTable, Metric, SurvivalTable, robust
from advpt.results.index import RecordIndex
from advpt.results.values import NO_CELL, listed, of_seeds

PROMPT, TOWER, INPUT, TEST_TIME, OTHER = "prompt", "image tower", "input defense", "defense at test time", "other model"
KINDS = (PROMPT, TOWER, INPUT, TEST_TIME, OTHER)
KEEPS, PARTLY, LOSES, WORSE = "keeps", "keeps a part", "loses", "worse"
HIDDEN, NOTHING, UNCLAIMED = "gains, not as published", "no gain as published", "nothing is claimed"
WORDS = {
    KEEPS: "the gain is above 0 as the authors measure it and against an attacker who knows the method",
    PARTLY: "as keeps, and this attacker took some of it: the difference of both gains is above 0",
    LOSES: "the gain is above 0 as the authors measure it, not against an attacker who knows the method, and the "
    "difference of both is above 0",
    WORSE: "an attacker who knows the method leaves fewer images right with it than without",
    HIDDEN: "the gain is above 0 against an attacker who knows the method, not as the authors measure it",
    NOTHING: "neither gain is above 0",
    UNCLAIMED: f"the intervals do not tell kept from lost, or a trained method has fewer than {MIN_SEEDS} seeds",
}  # above and below 0: the 95 % interval excludes it
ABSENT = ("not run", "failed", "refused", "missing", NO_CELL)
REFERENCE, ALONE = "reference", "nothing to compare with"


@dataclass(frozen=True)
class Pair:
    """A row under both attackers on the same images.

    Args:
        published, adaptive: outcomes by seed, as its authors measure it, and against an attacker who knows it.
        images: what tells the images apart: digests of both lists, and which of the first the second is.
        ids: of the records. notes: what is to be known of the numbers.
    """

    published: Runs
    adaptive: Runs
    images: tuple[str, str, tuple[int, ...]]
    ids: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def taken(self) -> Runs:
        """What the second attacker took, image by image: 1 where only the first left it right."""
        first, second = self.published, self.adaptive
        correct = {seed: first.correct[seed].astype(float) - second.correct[seed] for seed in first.seeds}
        lost = {seed: 100 * float(each.mean()) for seed, each in correct.items()}
        return Runs(lost, correct, first.images, first.trained)


@dataclass(frozen=True)
class SurvivalRow:
    """What is left of the gain of a row.

    Args:
        about: the row. name: its method, with what that stands on; label: without. over: the row without it.
        kind: one of :data:`KINDS`. protocol, attack: by which its authors measure it.
        pair, base: of the row, and of that without its method; None where they cannot be compared, and ``missing``
            says why.
        printed: the gain that a paper prints, in points.
    """

    about: BenchmarkRow
    name: str
    label: str
    over: str
    kind: str
    protocol: str
    attack: str
    pair: Pair | None = None
    base: Pair | None = None
    missing: str = ""
    printed: float | None = None

    @cached_property
    def published(self) -> Interval | None:
        """The gain as the authors measure it, in points."""
        return difference(self.pair.published, self.base.published) if self.pair and self.base else None

    @cached_property
    def adaptive(self) -> Interval | None:
        """The gain against an attacker who knows the method."""
        return difference(self.pair.adaptive, self.base.adaptive) if self.pair and self.base else None

    @cached_property
    def taken(self) -> Interval | None:
        """The first gain minus the second: what this attacker took of it."""
        return difference(self.pair.taken, self.base.taken) if self.pair and self.base else None

    @property
    def word(self) -> str:
        """One of :data:`WORDS`, or why there is none."""
        if self.published is None or self.adaptive is None or self.taken is None:
            return self.missing
        return verdict(self.published, self.adaptive, self.taken)

    @property
    def keeps(self) -> bool:
        """Whether a gain as the authors measure it is one against an attacker who knows the method."""
        return self.word in (KEEPS, PARTLY)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all records behind it, its own first."""
        pairs = [pair for pair in (self.pair, self.base) if pair is not None]
        return tuple(dict.fromkeys(i for pair in pairs for i in pair.ids))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of its records, and of those of the row that it is compared with."""
        own = self.pair.notes if self.pair is not None else ()
        return (*own, *(f"{self.over}: {note}" for note in (self.base.notes if self.base is not None else ())))

    @property
    def seeds(self) -> str:
        """``1-3``, or ``1,2 and 1`` where the row that it is compared with has others."""
        own = [listed(pair.published.seeds) for pair in (self.pair, self.base) if pair is not None]
        return " and ".join(dict.fromkeys(own))


def verdict(published: Interval, adaptive: Interval, taken: Interval) -> str:
    """The word of :data:`WORDS` for two gains and their difference. "worse" goes before "loses": a method that gains as
    published and does harm against an attacker who knows it."""
    if any(seeds < MIN_SEEDS for seeds in adaptive.seeds):
        return UNCLAIMED
    if _below(adaptive):
        return WORSE
    if not _above(published):
        return HIDDEN if _above(adaptive) else NOTHING
    if _above(adaptive):
        return PARTLY if _above(taken) else KEEPS
    return LOSES if _above(taken) else UNCLAIMED


def _above(interval: Interval) -> bool:
    return interval.significant and interval.mean > 0


def _below(interval: Interval) -> bool:
    return interval.significant and interval.mean < 0


# --- rows from records ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FilledSurvival:
    """The rows of a table, in the order of the benchmark; :mod:`advpt.results.survival_text` writes them."""

    table: SurvivalTable
    rows: tuple[SurvivalRow, ...]

    @property
    def compared(self) -> list[SurvivalRow]:
        """Those with both gains."""
        return [row for row in self.rows if row.adaptive is not None]

    @property
    def images(self) -> list[int]:
        """On how many images the gains are, each number once."""
        return sorted({row.adaptive.images for row in self.compared if row.adaptive is not None})

    @property
    def states(self) -> list[str]:
        """``value`` of each row that has its gains, else a word in their place."""
        rows = [row for row in self.rows if row.about.against is not None]
        missing = [row.missing.rpartition(": ")[2] for row in rows]
        words = [word if word in ABSENT else "not compared" for word in missing]
        return ["value" if row.adaptive is not None else word for row, word in zip(rows, words)]


def fill_survival(table: SurvivalTable, index: RecordIndex) -> FilledSurvival:
    """The gains of every row of a benchmark."""
    read = measured(table.of, index)
    return FilledSurvival(table, tuple(_row(table.of, place, read) for place in range(len(read))))


def _row(table: BenchmarkTable, place: int, read: Sequence[MeasuredRow]) -> SurvivalRow:
    row, ours = table.rows[place], read[place]
    names = (full_name(table, place), label(table, place))
    about = (row, *names, full_name(table, row.against) if row.against is not None else "", _kind(table, place, ours))
    filled = SurvivalRow(*about, row.authors, authors_attack(table, row))
    own = pair(ours, table, authors(table, row))
    if row.against is None:
        missing = REFERENCE if any(other.against == place for other in table.rows) else ALONE
        return dataclasses.replace(filled, pair=own if isinstance(own, Pair) else None, missing=missing)
    base = pair(read[row.against], table, authors(table, row))
    if isinstance(own, str):
        return dataclasses.replace(filled, missing=own)
    if isinstance(base, str):
        return dataclasses.replace(filled, pair=own, missing=f"{filled.over}: {base}")
    if own.images != base.images:
        return dataclasses.replace(filled, pair=own, missing=f"other images than {filled.over}")
    printed = [_printed(each, table) for each in (ours, read[row.against])]
    gain = printed[0] - printed[1] if printed[0] is not None and printed[1] is not None else None
    return dataclasses.replace(filled, pair=own, base=base, printed=gain)


def pair(row: MeasuredRow, table: BenchmarkTable, asked: Metric) -> Pair | str:
    """A row under ``asked`` and under the adaptive attacker, on the images of the second, or the word for why not."""
    first, second = row.of[asked], row.of[robust(table.attack, "adaptive")]
    for metric, each in ((asked, first), (robust(table.attack, "adaptive"), second)):
        if not each.by_seed:
            return each.state if each.state == NO_CELL else f"{metric.protocol}: {each.state}"
    both = {seed: (first.by_seed[seed], second.by_seed[seed]) for seed in first.by_seed if seed in second.by_seed}
    if not both:
        return "no seed has both"
    rows = {seed: rows_among(*records) for seed, records in both.items()}
    places = next(iter(rows.values()))
    if places is None or any(each is None for each in rows.values()):
        return "which images the adaptive ones are is not recorded: evaluate it again"
    digests = {(one.result.images.digest, other.result.images.digest) for one, other in both.values()}
    if len(digests) > 1 or len(set(rows.values())) > 1:
        return "the seeds have different images"
    trained = any(record.result.is_trained for record, _ in both.values())
    published = _runs({seed: records[0] for seed, records in both.items()}, places, trained)
    adaptive = _runs({seed: records[1] for seed, records in both.items()}, range(len(places)), trained)
    ids = tuple(record.id for records in both.values() for record in records)
    return Pair(published, adaptive, (*digests.pop(), places), ids, _notes(first, second, both))


def _runs(by_seed: dict[int, Record], images: Sequence[int], trained: bool) -> Runs:
    """The outcomes of attacked images, some of each record's."""
    parts = {seed: part for seed, record in by_seed.items() if (part := record.result.robust) is not None}
    correct = {seed: part.outcomes()[list(images)] for seed, part in parts.items()}
    accuracies = {seed: 100 * float(each.mean()) for seed, each in correct.items()}
    return Runs(accuracies, correct, len(images), trained)


def rows_among(whole: Record, part: Record) -> tuple[int, ...] | None:
    """Which of the images of ``whole`` (from 0) those of ``part`` are; None where that is not recorded."""
    n, digest, rows = part.result.images.n, part.result.images.digest, part.observed.rows
    if digest and digest == whole.result.images.digest:
        return tuple(range(n))
    subsets = {record.result.config.get("EVAL.SUBSET") for record in (whole, part)}
    own = whole.observed.rows if whole.result.images.part else range(whole.result.images.n)
    places = {row: i for i, row in enumerate(own)}
    if len(subsets) > 1 or not len(set(rows)) == n == len(rows) > 0 or not all(row in places for row in rows):
        return None
    return tuple(places[row] for row in rows)


def _notes(first: Measured, second: Measured, both: dict[int, tuple[Record, Record]]) -> tuple[str, ...]:
    """Which seeds are left out, and of which draws of a random defense the outcomes are."""
    known = {*first.by_seed, *second.by_seed, *(s for each in (first, second) for s, _ in each.absent if s is not None)}
    notes = [f"without seed {listed([seed])}" for seed in sorted(known - both.keys())]
    robust_parts = [record.result.robust for records in both.values() for record in records]
    draws = max((len(part.defense_seeds) for part in robust_parts if part is not None), default=0)
    return (*notes, *([f"outcomes of the first of {draws} draws"] if draws > 1 else []))


def _printed(row: MeasuredRow, table: BenchmarkTable) -> float | None:
    """The accuracy that a paper prints under ``static``, where these are its images."""
    read = row.of[robust(table.attack, "static")]
    return of_seeds(read.by_seed, read.absent, True, row.about.static).paper


# --- names ----------------------------------------------------------------------------------------------------------


def label(table: BenchmarkTable, place: int) -> str:
    """What a row has and the row that it is compared with has not: ``mean``, ``CoOp``, ``TeCoA``; all of it where there
    is none."""
    row = table.rows[place]
    if row.against is None:
        return full(row)
    base = table.rows[row.against]
    parts = zip(_parts(row), _parts(base))
    return " + ".join(ours for ours, theirs in parts if ours not in ("", theirs)) or full(row)


def _parts(row: BenchmarkRow) -> tuple[str, str, str]:
    return row.tower, row.prompt, row.defense if row.recorded else ""


def full_name(table: BenchmarkTable, place: int) -> str:
    """``mean on CoOp``; what the first row without a method has is not said."""
    row, first = table.rows[place], next((i for i, each in enumerate(table.rows) if each.against is None), None)
    if row.against is None or row.against == first:
        return label(table, place)
    return f"{label(table, place)} on {full_name(table, row.against)}"


def _kind(table: BenchmarkTable, place: int, read: MeasuredRow) -> str:
    row = table.rows[place]
    base = table.rows[row.against] if row.against is not None else None
    if base is None or any(record.result.trainer == OUTSIDE for record in read.records):
        return OTHER
    if row.recorded != base.recorded:
        last = row.recorded.rpartition("+")[2]
        return INPUT if last.partition("/")[0].partition(":")[0] in DEFENSES else TEST_TIME
    return TOWER if row.tower != base.tower else PROMPT if row.prompt != base.prompt else OTHER
