"""Tables of fine-tuned image towers, alone and below prompts and defenses at test time, and sentences that say what can
be told apart and what cannot."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from advpt.evaluation.intervals import MIN_SEEDS, Interval
from advpt.results import test_time
from advpt.results.exhibit import Cell, Condition, StackTable, Table, TableRow, TowerRow, TowerTable
from advpt.results.index import RecordIndex
from advpt.results.published_towers import Difference, TowerNumber, on_our_images
from advpt.results.render import COLUMNS, csv_line, to_csv
from advpt.results.values import NO_CELL, Comparison, FilledTable, Value, compare, value

SECONDS = "training (s)"
# The protocol of each column of stacks ("" without an attack), and whether it is of all images.
STACK_PROTOCOLS = ("static", "adaptive")
STACK_COLUMNS = (("", True), ("static", True), ("", False), ("adaptive", False))


def fill_towers(table: TowerTable, index: RecordIndex) -> FilledTable:
    """The numbers of a table of towers, with their differences to the tower that was not tuned, and seconds of
    training."""
    measured = [[value(Cell(row.runs, metric), index) for _, metric in table.columns] for row in table.rows]
    printed = [
        tuple(on_our_images(number, ours.comparable) for number, ours in zip(row.published, line))
        for row, line in zip(table.rows, measured)
    ]
    table = dataclasses.replace(
        table, rows=tuple(dataclasses.replace(row, published=each) for row, each in zip(table.rows, printed))
    )
    values = [[_beside(ours, row, i) for i, ours in enumerate(line)] for row, line in zip(table.rows, measured)]
    comparisons = []
    for row, line in zip(table.rows[1:], values[1:]):
        for (head, _), ours, plain in zip(table.columns, line, values[0]):
            interval = compare(ours, plain)
            if interval is not None:
                comparisons.append(Comparison(f"{row.method} - {table.rows[0].method}", head, interval))
    lines = tuple(TableRow("", row.method, "", "", "") for row in table.rows)
    heads = tuple(head for head, _ in table.columns)
    attacks = {head: metric.attack for head, metric in table.columns if metric.attack}
    conditions = {head: Condition(metric.protocol or "", head) for head, metric in table.columns}
    shown = Table(table.name, table.title, table.caption, heads, lines, attacks, conditions)
    seconds = {SECONDS: [_seconds(row, index) for row in table.rows]}
    return FilledTable(
        shown, values, comparisons, bold=False, sentences=sentences(table, values), extra=seconds, below=_below(table)
    )


def _beside(ours: Value, row: TowerRow, column: int) -> Value:
    """A number, with the published one where everything agrees, and a note where our images are why it has none."""
    printed = row.published[column] if row.published else None
    if isinstance(printed, TowerNumber):
        return dataclasses.replace(ours, paper=printed.accuracy)
    if ours.comparable is not True and printed is not None and printed.nearest is not None:
        note = f"not comparable with papers: {printed.text.partition(' differs: ')[2]}"
        return dataclasses.replace(ours, notes=(*ours.notes, note))
    return ours


def _seconds(row: TowerRow, index: RecordIndex) -> str:
    """Seconds of training, the mean of a row's runs."""
    measured = []
    for run in row.runs:
        record, _ = index.first(run, lambda record: record.observed.training is not None, "record with times")
        times = record.observed.training if record is not None else None
        if times is not None and times.epochs and (total := times.until(len(times.epochs))) is not None:
            measured.append(total)
    return f"{sum(measured) / len(measured):.0f}" if measured else "-"


def comma_separated(table: TowerTable, filled: FilledTable) -> str:
    """One line per number, with the ids of the records behind it and the seconds of training."""
    lines = []
    for row, line, seconds in zip(table.rows, filled.values, filled.extra[SECONDS]):
        for (_, metric), number in zip(table.columns, line):
            about = (metric.protocol or "-", metric.attack or "clean")
            where = (table.name, table.backbone, table.dataset, row.method, "none", *about)
            lines.append([*csv_line(where, number), seconds])
    return to_csv((*COLUMNS, "training_s"), lines)


# --- what the numbers say -------------------------------------------------------------------------------------------


def sentences(table: TowerTable, values: Sequence[Sequence[Value]]) -> list[str]:
    """For each column what can be told from the tower that was not tuned, and which tuned ones can be told apart."""
    names, made = [row.method for row in table.rows], list[str]()
    for column, (head, _) in enumerate(table.columns):
        numbers = [line[column] for line in values]
        against = {name: each for name, one in zip(names[1:], numbers[1:]) if (each := compare(one, numbers[0]))}
        if against:
            made.append(f"{head}: {_against(names[0], against)}{_between(names[1:], numbers[1:])}")
    return made


def _against(plain: str, intervals: dict[str, Interval]) -> str:
    above = {name: each for name, each in intervals.items() if each.significant and each.mean > 0}
    below = {name: each for name, each in intervals.items() if each.significant and each.mean < 0}
    parts = [f"{word} {plain}: {listed(each)}" for word, each in (("above", above), ("below", below)) if each]
    if rest := [name for name in intervals if name not in above | below]:
        parts.append(f"not told from {plain}: {', '.join(rest)}")
    return "; ".join(parts) + "."


def _between(names: Sequence[str], numbers: Sequence[Value]) -> str:
    """Which tuned towers can be told apart, by paired differences."""
    apart, alike = dict[str, Interval](), []
    for (one, first), (other, second) in itertools.combinations(zip(names, numbers), 2):
        interval = compare(first, second)
        if interval is None:
            continue
        if not interval.significant:
            alike.append(f"{one} and {other}")
        elif interval.mean > 0:
            apart[f"{one} above {other}"] = interval
        else:
            apart[f"{other} above {one}"] = dataclasses.replace(
                interval, mean=-interval.mean, low=-interval.high, high=-interval.low
            )
    told = f" Of the tuned ones {listed(apart)}." if apart else ""
    return told + (f" Not told apart: {'; '.join(alike)}." if alike else "")


def listed(intervals: dict[str, Interval]) -> str:
    """Differences, the largest first: ``TeCoA (+21.0 points, +12.9 to +29.1), ...``."""
    ordered = sorted(intervals.items(), key=lambda item: -item[1].mean)
    return ", ".join(f"{name} ({i.mean:+.1f} points, {i.low:+.1f} to {i.high:+.1f})" for name, i in ordered)


def _below(table: TowerTable) -> list[str]:
    """What apart and alike mean, and where published numbers come from or what differs in them."""
    made = [
        f"Told apart: the 95 % interval of the paired difference excludes 0, with at least {MIN_SEEDS} seeds of each "
        "tuned tower; each interval is for itself. Of the others nothing is claimed."
    ]
    printed, nothing = dict[str, None](), True
    for row in table.rows:
        for (head, _), published in zip(table.columns, row.published):
            if isinstance(published, TowerNumber):
                printed[f"{row.method}, {head}: {published.text}"] = None
            elif published.nearest is not None:
                printed[f"{row.method}, {head}: none, {published.text}"] = None
            nothing = nothing and isinstance(published, Difference) and published.nearest is None
    if nothing:
        return [*made, f"No source prints numbers of these methods on {table.dataset}."]
    return [*made, f"Published: {'; '.join(printed)}."]


# --- tower x prompt x defense ---------------------------------------------------------------------------------------


def fill_stacks(table: StackTable, index: RecordIndex) -> FilledTable:
    """The numbers of every stack, its defenses' differences to none, and what they say."""
    lines, values, comparisons, told = [], [], list[Comparison](), list[str]()
    for stack in table.stacks:
        read, name = test_time.rows(stack.defended, index, STACK_PROTOCOLS), f"{stack.tower}, {stack.prompt}"
        for row in read:
            lines.append(TableRow(stack.tower, stack.prompt, row.about.name, "", ""))
            values.append([_stacked(row, *column) for column in STACK_COLUMNS])
        for row, protocol in itertools.product(read[1:], STACK_PROTOCOLS):
            interval = compare(row.value(protocol), read[0].value(protocol))
            if interval is not None:
                names = f"{name}: {row.about.name} - {read[0].about.name}"
                comparisons.append(Comparison(names, protocol, interval))
        told += _behind(name, read)
    attack = table.stacks[0].defended.attack
    under = (Condition(protocol, attack if protocol else "clean") for protocol, _ in STACK_COLUMNS)
    conditions = dict(zip(heads := _stack_heads(table), under))
    shown = Table(table.name, table.title, table.caption, heads, tuple(lines), conditions=conditions)
    return FilledTable(shown, values, comparisons, bold=False, sentences=told)


def _stacked(row: test_time.Row, protocol: str, whole: bool) -> Value:
    return row.value(protocol) if protocol else row.value("static" if whole else "adaptive", attacked=False)


def _stack_heads(table: StackTable) -> tuple[str, ...]:
    defended = table.stacks[0].defended
    every = f"{defended.images} images" if defended.images else "all images"
    some = f"{defended.some} of them" if defended.images else f"{defended.some} images"
    return tuple(f"{protocol or 'clean'}, {every if whole else some}" for protocol, whole in STACK_COLUMNS)


def _behind(name: str, read: Sequence[test_time.Row]) -> list[str]:
    """What each defense gains or loses behind a stack under the attacker who knows it, on its own images."""
    intervals: dict[str, Interval] = {}
    for row in read[1:]:
        if interval := compare(row.value("adaptive"), read[0].value("adaptive")):
            intervals[row.about.name] = interval
    if not intervals:
        return []
    parts = []
    for word, sign in (("gains", 1), ("loses", -1)):
        if chosen := {each: i for each, i in intervals.items() if sign * i.low > 0 and sign * i.high > 0}:
            parts.append(f"{word}: {listed(chosen)}")
    if rest := [each for each, i in intervals.items() if i.low <= 0 <= i.high]:
        parts.append(f"not told from no defense: {', '.join(rest)}")
    plain = read[0].value("adaptive").mean_text
    return [f"{name}, against an attacker who knows the defense (without one {plain} %): {'; '.join(parts)}."]


def comma_separated_stacks(table: StackTable, filled: FilledTable) -> str:
    """One line per number, with the ids of the records behind it."""
    lines, rows = [], zip(filled.table.rows, filled.values)
    for stack in table.stacks:
        about = stack.defended
        for row, line in itertools.islice(rows, len(about.rows)):
            for (protocol, _), number in zip(STACK_COLUMNS, line):
                if number.state != NO_CELL:
                    attack = (protocol or "-", about.attack if protocol else "clean")
                    where = (table.name, stack.tower, about.dataset, stack.prompt, row.defense, *attack)
                    lines.append(csv_line(where, number))
    return to_csv(COLUMNS, lines)
