"""Tables of a benchmark: towers x prompts x defenses under attackers who know less or more, with what each row costs
and which of the adaptive attacks won."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advpt.evaluation.intervals import Runs
from advpt.evaluation.record import PartAccuracy, Record
from advpt.evaluation.test_time import KNOWING, STATIC
from advpt.results.exhibit import BenchmarkRow, BenchmarkTable, Condition, Metric, Table, TableRow, robust
from advpt.results.index import RecordIndex
from advpt.results.render import COLUMNS, csv_line, to_csv
from advpt.results.values import NO_CELL, Comparison, FilledTable, Value, compare, of_seeds

SECONDS, WON = "training (s)", "won by"
OUTSIDE = "Outside"  # the trainer of records of models that are not made here


@dataclass(frozen=True)
class Column:
    """A column: its head, the attack ("" for clean images), and under which metric its records are."""

    head: str
    metric: Metric
    attack: str = ""
    static_part: bool = False

    @property
    def protocol(self) -> str:
        """Of those who made the images; "" without an attack."""
        if self.static_part:
            return STATIC
        return (self.metric.protocol or "") if self.attack else ""


@dataclass(frozen=True)
class Measured:
    """The records of a row under one attack, by seed, and of the other seeds (None: not known) the word for why there
    is none."""

    by_seed: dict[int, Record]
    absent: tuple[tuple[int | None, str], ...]

    @property
    def state(self) -> str:
        """``value``, or the word in its place."""
        return of_seeds(self.by_seed, self.absent, robust=True).state

    @property
    def parts(self) -> dict[str, list[PartAccuracy]]:
        """The parts of a worst case, by name, one for each seed that has it."""
        parts: dict[str, list[PartAccuracy]] = {}
        for record in self.by_seed.values():
            for part in record.result.robust.parts if record.result.robust is not None else ():
                parts.setdefault(part.name, []).append(part)
        return parts


@dataclass(frozen=True)
class MeasuredRow:
    """A row with its records, by metric."""

    about: BenchmarkRow
    of: dict[Metric, Measured]

    @property
    def records(self) -> list[Record]:
        """All of them."""
        return [record for measured in self.of.values() for record in measured.by_seed.values()]

    @property
    def seconds(self) -> str:
        """Seconds of training, the mean over the seeds; ``-`` where nothing was trained or they are not known."""
        by_seed: dict[int, float] = {}
        for record in self.records:
            times = record.observed.training
            if times is not None and times.epochs and (total := times.until(len(times.epochs))) is not None:
                by_seed[record.result.seed] = total
        return f"{sum(by_seed.values()) / len(by_seed):.0f}" if by_seed else "-"


def columns(table: BenchmarkTable) -> tuple[Column, ...]:
    """Every column: those of all images, then those of the images that adaptive attackers get."""
    every = f"{table.images} images" if table.images else "all images"
    few = bool(table.some) and not 0 < table.images <= table.some
    some = (f"{table.some} of them" if table.images else f"{table.some} images") if few else every
    static, pseudo, adaptive = (robust(table.attack, protocol) for protocol in ("static", *KNOWING))
    made = [Column(f"clean, {every}", static)]
    made += [Column(f"transfer {a}, {every}", robust(a), a) for a in table.transfer]
    made += [Column(f"static, {every}", static, table.attack)]
    if few:
        made += [Column(f"clean, {some}", adaptive), Column(f"static, {some}", adaptive, table.attack, True)]
    made += [Column(f"{m.protocol}, {some}", m, table.attack) for m in (pseudo, adaptive)]
    return tuple(made)


def measured(table: BenchmarkTable, index: RecordIndex) -> list[MeasuredRow]:
    """The rows of a table with their records under every attack of it, and under those that their authors measure by,
    and the authors of the rows that are compared with them."""
    wanted = dict.fromkeys(column.metric for column in columns(table))
    made = []
    for place, about in enumerate(table.rows):
        over = (authors(table, row) for row in table.rows if row.against == place)
        metrics = dict.fromkeys((*wanted, authors(table, about), *over))
        made.append(MeasuredRow(about, {metric: _measured(table, about, metric, index) for metric in metrics}))
    return made


def authors(table: BenchmarkTable, row: BenchmarkRow) -> Metric:
    """What the authors of a method measure it by."""
    return robust(authors_attack(table, row), row.authors)


def authors_attack(table: BenchmarkTable, row: BenchmarkRow) -> str:
    """The attack of :func:`authors`: that of all protocols, but under ``transfer`` the first where it is not one of
    the table's."""
    alike = row.authors != "transfer" or not table.transfer or table.attack in table.transfer
    return table.attack if alike else table.transfer[0]


def _measured(table: BenchmarkTable, row: BenchmarkRow, metric: Metric, index: RecordIndex) -> Measured:
    by_seed: dict[int, Record] = {}
    absent: list[tuple[int | None, str]] = []
    for run_id in row.runs:
        record, state = _record(table, row, run_id, metric, index)
        run = index.runs.get(run_id)
        if record is not None and run is not None:
            by_seed[run.seed] = record
        else:
            absent.append((run.seed if run is not None else None, state))
    return Measured(by_seed, tuple(absent))


def _record(
    table: BenchmarkTable, row: BenchmarkRow, run_id: str, metric: Metric, index: RecordIndex
) -> tuple[Record | None, str]:
    """The record of a run under an attack, of several the one with the number of images that the table has; or the word
    in its place. Attackers that a model from outside cannot have leave an empty cell."""
    run = index.runs.get(run_id)
    every = list(index.of(run).values()) if run is not None else []
    alike = [record for record in every if _measures(record) == (metric.protocol, metric.attack, row.recorded)]
    images = table.some if metric.protocol in KNOWING else table.images
    alike.sort(key=lambda record: abs(record.result.images.n - images) if images else record.result.images.part)
    if not alike and any(record.result.trainer == OUTSIDE for record in every):
        return None, NO_CELL
    return index.first(
        run_id, lambda record: any(record is each for each in alike[:1]), f"record of {metric} with {full(row)}"
    )


def _measures(record: Record) -> tuple[str | None, str, str]:
    r = record.result
    return r.protocol, r.attack.label if r.attack is not None else "", r.defense_name


def full(row: BenchmarkRow) -> str:
    """``TeCoA, CoOp, mean``: all that an image goes through."""
    return ", ".join(part for part in (row.tower, row.prompt, row.defense if row.recorded else "") if part)


def _defense(row: BenchmarkRow) -> str:
    return row.defense if row.recorded else "none"


def fill_benchmark(table: BenchmarkTable, index: RecordIndex) -> FilledTable:
    """The numbers of a table: accuracies with their intervals, seconds of training, the adaptive attack that won, and
    the differences of each row to that without its method."""
    read, heads = measured(table, index), columns(table)
    values = [[_value(row, column) for column in heads] for row in read]
    lines = tuple(TableRow(row.tower, row.prompt, _defense(row), "", "") for row in table.rows)
    conditions = {column.head: Condition(column.protocol, column.attack or "clean") for column in heads}
    exact = {a: robust(a).attack for a in dict.fromkeys((table.attack, *table.transfer))}
    attacks = {short: form for short, form in exact.items() if short != form}
    shown = Table(table.name, table.title, table.caption, tuple(conditions), lines, attacks, conditions, glance=False)
    adaptive = robust(table.attack, "adaptive")
    return FilledTable(
        shown,
        values,
        _comparisons(table, values),
        bold=False,
        extra={SECONDS: [row.seconds for row in read], WON: [won(row.of[adaptive]) for row in read]},
        below=[WON_TEXT],
        names={
            "tower": [row.backbone for row in lines],
            "prompt": [row.method or "-" for row in lines],
            "defense": [row.defense for row in lines],
        },
    )


def _comparisons(table: BenchmarkTable, values: Sequence[Sequence[Value]]) -> list[Comparison]:
    """Each row against that without its method, as its authors measure it and under the adaptive attack."""
    made = []
    for row, line in zip(table.rows, values):
        shown = (authors(table, row), robust(table.attack, "adaptive")) if row.against is not None else ()
        for place, column in enumerate(columns(table)):
            if row.against is None or column.static_part or not column.attack or column.metric not in shown:
                continue
            interval = compare(line[place], values[row.against][place])
            if interval is not None:
                made.append(Comparison(f"{full(row)} - {full(table.rows[row.against])}", column.head, interval))
    return made


def _value(row: MeasuredRow, column: Column) -> Value:
    read = row.of[column.metric]
    if column.static_part:
        return _static_part(read)
    if column.attack:
        paper = row.about.static if column.protocol == "static" else None
        return of_seeds(read.by_seed, read.absent, True, paper)
    if column.metric.protocol == "static":  # clean, on all images: any record of them has it
        others = [each for metric, each in row.of.items() if metric.protocol not in KNOWING and each.by_seed]
        read = read if read.by_seed else next(iter(others), read)
        return of_seeds(read.by_seed, read.absent, False, row.about.clean)
    return of_seeds(read.by_seed, read.absent, False)


def _static_part(read: Measured) -> Value:
    """The static images among those that the adaptive attacks have."""
    by_seed = {
        seed: part
        for seed, record in read.by_seed.items()
        for part in (record.result.robust.parts if record.result.robust is not None else ())
        if part.name == STATIC
    }
    if not by_seed:
        return Value(NO_CELL if read.by_seed else read.state)
    trained = any(record.result.is_trained for record in read.by_seed.values())
    accuracies = {seed: part.accuracy for seed, part in by_seed.items()}
    runs = Runs(accuracies, {}, min(part.n for part in by_seed.values()), trained)
    return Value("value", runs, tuple(read.by_seed[seed].id for seed in by_seed))


# --- which attack won -------------------------------------------------------------------------------------------------

WON_TEXT = (
    "Won by: of the adaptive attacks on all images, the one that left the fewest right, with the percent that it left; "
    "then, of those that attack only what the earlier ones left right, the one that took the most of it. The adaptive "
    "accuracy is the worst of all of them, image by image."
)


def won(measured: Measured) -> str:
    """The part of a worst case that left the fewest right of those on all images, and the one that took the most of
    what was left, as counts over all seeds; ``-`` where a record has no parts."""
    parts = list(measured.parts.items())
    whole = {part: _share(each) for part, each in parts if not each[0].left}
    if not whole:
        stages = _stages(measured)
        return max(stages, key=lambda stage: stages[stage]) if any(stages.values()) else "-"
    fewest = min(whole.values())
    best = [part for part, share in whole.items() if share <= fewest + 1e-9]
    text = f"{best[0]}{_alike(len(best) - 1)}: {fewest:.1f} %"
    took = {part: sum(p.n - p.correct for p in each) for part, each in parts if each[0].left}
    if took and (most := max(took.values())) > 0:
        last = next(part for part, count in took.items() if count == most)
        text += f"; then {last}: {most:g} of {sum(p.n for p in measured.parts[last])} left"
    return text


def _share(parts: Sequence[PartAccuracy]) -> float:
    """Percent right, over all seeds."""
    images = sum(part.n for part in parts)
    return 100 * sum(part.correct for part in parts) / images if images else 100.0


def _alike(more: int) -> str:
    """After the first of several that left as many."""
    return f" and {more} alike" if more else ""


def _stages(measured: Measured) -> dict[str, int]:
    """How many images each stage of an attack broke, over all seeds."""
    stages: dict[str, int] = {}
    for record in measured.by_seed.values():
        for stage, broken in (record.result.robust.stages or {}).items() if record.result.robust is not None else ():
            stages[stage] = stages.get(stage, 0) + broken
    return stages


def comma_separated(table: BenchmarkTable, filled: FilledTable) -> str:
    """One line per number, with the ids of the records behind it, seconds of training, and the attack that won."""
    lines = []
    for place, (row, line) in enumerate(zip(table.rows, filled.values)):
        after = [row.tower, filled.extra[SECONDS][place], filled.extra[WON][place]]
        for column, number in zip(columns(table), line):
            if number.state != NO_CELL:
                about = (column.protocol or "-", column.attack or "clean")
                where = (table.name, table.backbone, table.dataset, row.prompt, _defense(row))
                lines.append([*csv_line((*where, *about), number), *after])
    return to_csv((*COLUMNS, "tower", "training_s", "won_by"), lines)
