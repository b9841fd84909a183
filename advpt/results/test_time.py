"""Tables of defenses at test time: each row from its records, the parts of its adaptive attacks, and sentences that say
what survives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from advpt.evaluation.flags import LABEL_LEAK, MASKED, VANISHED, own_attacks
from advpt.evaluation.intervals import Interval, Runs, wilson
from advpt.evaluation.record import PartAccuracy, Record
from advpt.evaluation.test_time import STATIC
from advpt.results.exhibit import Condition, DefenseRow, DefenseTable, PartTable, Table, TableRow, robust
from advpt.results.index import RecordIndex
from advpt.results.published import number
from advpt.results.render import COLUMNS, csv_line, grid, to_csv
from advpt.results.values import NO_CELL, Comparison, FilledTable, Value, compare, summarize

PROTOCOLS = ("static", "pseudo", "adaptive")
WEAKER = 5  # points, from which on a weak attack is named
PART_HEADS = ("defense", "part", "right", "of", "%", "95 % interval", "gradient")


@dataclass(frozen=True)
class Row:
    """A defense with its records, by protocol, and the words in the place of those that are missing."""

    about: DefenseRow
    seed: int
    records: dict[str, Record]
    states: dict[str, str]

    def value(self, protocol: str, *, attacked: bool = True) -> Value:
        """The accuracy under an attack, or of the same images without."""
        record = self.records.get(protocol)
        if record is None:
            return Value(self.states[protocol])
        return summarize({self.seed: record}, attacked)

    @property
    def parts(self) -> tuple[PartAccuracy, ...]:
        """Those of the adaptive attack."""
        attacked = self.records["adaptive"].result.robust if "adaptive" in self.records else None
        return attacked.parts if attacked is not None else ()

    @property
    def static_part(self) -> Value:
        """The static images among those that the adaptive attack has."""
        part = next((each for each in self.parts if each.name == STATIC), None)
        if part is None:
            return Value(NO_CELL if "adaptive" in self.records else self.states["adaptive"])
        return Value("value", Runs({self.seed: part.accuracy}, {}, part.n, trained=False))

    @property
    def vanished(self) -> list[PartAccuracy]:
        """Attacks on all images, from a start of their own, whose gradient is nothing beside the plain model's."""
        own = own_attacks(self.parts)
        return [each for each in own if each.gradient is not None and each.gradient < VANISHED]

    @property
    def flags(self) -> set[str]:
        """Those of all its records."""
        return {flag for record in self.records.values() for flag in record.result.flags}


def rows(table: DefenseTable, index: RecordIndex, protocols: Sequence[str] = PROTOCOLS) -> list[Row]:
    """The rows of a table with their records of these protocols."""
    read = []
    for about in table.rows:
        run = index.runs.get(about.run)
        sought = {protocol: _record(table, about, protocol, index) for protocol in protocols}
        records = {protocol: record for protocol, (record, _) in sought.items() if record is not None}
        states = {protocol: state for protocol, (_, state) in sought.items()}
        read.append(Row(about, run.seed if run is not None else 0, records, states))
    return read


def _record(table: DefenseTable, row: DefenseRow, protocol: str, index: RecordIndex) -> tuple[Record | None, str]:
    """The record of a defense under a protocol, or the word in its place."""
    metric = robust(table.attack, protocol)

    def wanted(record: Record) -> bool:
        r = record.result
        measured = (r.protocol, r.attack.label if r.attack is not None else "", r.defense_name)
        return measured == (metric.protocol, metric.attack, row.recorded)

    return index.first(row.run, wanted, f"record of {metric} with {row.name}")


def columns(table: DefenseTable) -> tuple[tuple[str, str], ...]:
    """The protocol of each column ("" without an attack) and its head."""
    every, some = f"{table.images} images" if table.images else "all images", f"{table.some} of them"
    same = [("", "clean"), ("static", "static"), ("pseudo", "pseudo"), ("adaptive", "adaptive")]
    return (("", f"clean, {every}"), ("static", f"static, {every}"), *((p, f"{word}, {some}") for p, word in same))


def fill_defenses(table: DefenseTable, index: RecordIndex) -> FilledTable:
    """The numbers of a table, its comparisons with no defense under the adaptive attack, and what they say."""
    read = rows(table, index)
    values, comparisons = [], []
    for row in read:
        clean = dataclasses.replace(row.value("static", attacked=False), paper=number(row.about.clean))
        static = dataclasses.replace(row.value("static"), paper=number(row.about.static))
        same = row.value("adaptive", attacked=False)
        values.append([clean, static, same, row.static_part, row.value("pseudo"), row.value("adaptive")])
    for row in read[1:]:
        for protocol in ("static", "adaptive"):
            interval = compare(row.value(protocol), read[0].value(protocol))
            if interval is not None:
                comparisons.append(Comparison(f"{row.about.name} - {read[0].about.name}", protocol, interval))
    lines = tuple(TableRow("", "", row.name, "", "") for row in table.rows)
    conditions = {head: Condition(protocol, table.attack if protocol else "clean") for protocol, head in columns(table)}
    shown = Table(table.name, table.title, table.caption, tuple(conditions), lines, conditions=conditions)
    return FilledTable(shown, values, comparisons, bold=False, sentences=sentences(table, read))


def comma_separated(table: DefenseTable, filled: FilledTable) -> str:
    """One line per number, with the ids of the records behind it."""
    lines = []
    for row, line in zip(table.rows, filled.values):
        for (protocol, _), value in zip(columns(table), line):
            if value.state != NO_CELL:
                attack = table.attack if protocol else "clean"
                where = (table.name, table.backbone, table.dataset, "vanilla", row.name, protocol or "-", attack)
                lines.append(csv_line(where, value))
    return to_csv(COLUMNS, lines)


# --- what the numbers say -------------------------------------------------------------------------------------------


def sentences(table: DefenseTable, read: Sequence[Row]) -> list[str]:
    """What survives, where an attack was too weak, and where a gradient was none: in plain words, with the numbers."""
    if not read:
        return []
    plain, others = read[0], read[1:]
    made = [_undefended(table, plain)] if {"static", "adaptive"} <= plain.records.keys() else []
    for protocol in ("adaptive", "static"):
        made += _gains(table, plain, others, protocol)
    made += [text for text in (_masked(others), _vanished(plain, others), _leaks(others)) if text]
    return made


def _undefended(table: DefenseTable, plain: Row) -> str:
    clean, static, adaptive = plain.value("static", attacked=False), plain.value("static"), plain.value("adaptive")
    return (
        f"Without a defense {clean.mean_text} % of the images are right clean and {static.mean_text} % under "
        f"{table.attack}; of the {table.some} that adaptive attackers get, {adaptive.mean_text} %."
    )


def _gains(table: DefenseTable, plain: Row, others: Sequence[Row], protocol: str) -> list[str]:
    """Who gains against no defense under a protocol: intervals without 0."""
    intervals: dict[str, Interval] = {}
    for row in others:
        interval = compare(row.value(protocol), plain.value(protocol))
        if interval is not None:
            intervals[row.about.name] = interval
    if not intervals:
        return []
    above = {name: each for name, each in intervals.items() if each.low > 0}
    below = {name: each for name, each in intervals.items() if each.high < 0}
    who = "who knows the defense (adaptive)" if protocol == "adaptive" else "who does not know the defense (static)"
    head = f"Against an attacker {who}"
    if above:
        text = f"{head}, {len(above)} of {len(intervals)} defenses keep a gain over none that chance does not explain: "
        text += _listed(above) + "."
    else:
        text = f"{head}, none of {len(intervals)} defenses keeps a gain over none that chance would not explain."
    if below:
        text += f" Worse than no defense: {_listed(below)}."
    if rest := len(intervals) - len(above) - len(below):
        text += f" For {rest} the 95 % interval of the difference contains 0: nothing is claimed of them."
    if protocol == "adaptive" and len(intervals) < len(others):
        absent = [row.about.name for row in others if row.about.name not in intervals]
        text += f" Without a number yet: {', '.join(absent)}."
    return [text]


def _listed(intervals: dict[str, Interval]) -> str:
    ordered = sorted(intervals.items(), key=lambda item: -item[1].mean)
    return ", ".join(f"{name} ({i.mean:+.1f} points, {i.low:+.1f} to {i.high:+.1f})" for name, i in ordered)


def _masked(others: Sequence[Row]) -> str:
    """Where attacks through the defense are weaker than images that were made without it."""
    shown = []
    for row in others:
        static = row.static_part
        weak = [part for part in own_attacks(row.parts) if static.runs and part.accuracy >= static.runs.mean + WEAKER]
        if weak:
            part = max(weak, key=lambda part: part.accuracy)
            alone = ", and no gradient of its own is stronger than they are" if MASKED in row.flags else ""
            shown.append(f"{row.about.name} through {part.name} ({part.accuracy:.1f} %, {static.mean_text} %{alone})")
    if not shown:
        return ""
    return (
        f"Attacks that know the defense and leave at least {WEAKER} points more right than the static images, as where "
        f"a gradient is masked or noisy: {'; '.join(shown)}. The adaptive number is the worst of both."
    )


def _vanished(plain: Row, others: Sequence[Row]) -> str:
    """Where a gradient was nothing, and what another one did."""
    shown = []
    for row in others:
        if row.vanished:
            clean, worst = row.value("adaptive", attacked=False), row.value("adaptive")
            left = [f"clean {clean.mean_text} %", *(f"{part.name}: {part.accuracy:.1f} %" for part in row.vanished)]
            left.append(f"the worst of all parts {worst.mean_text} %")
            shown.append(f"{row.about.name} ({'; '.join(left)})")
    if not shown:
        return ""
    undefended = plain.value("adaptive")
    behind = f"; the undefended model has {undefended.mean_text} %" if undefended.runs is not None else ""
    return f"A gradient is nothing, so an attack along it has no direction: {', '.join(shown)}{behind}."


def _leaks(others: Sequence[Row]) -> str:
    """Where more is right under an attack than without one."""
    shown = []
    for row in others:
        for protocol, record in row.records.items():
            r = record.result
            if LABEL_LEAK in r.flags and r.robust is not None:
                both = f"{protocol} {r.robust.accuracy:.1f} %, clean {r.clean.accuracy:.1f} %"
                shown.append(f"{row.about.name} ({both})")
    if not shown:
        return ""
    return (
        "More images are right attacked than clean, as where attacked images carry their label, for: "
        f"{', '.join(shown)}."
    )


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartLine:
    """A part of an adaptive attack, as a line of the CSV; ``record``: the id of its record."""

    defense: str
    part: PartAccuracy
    record: str

    @property
    def cells(self) -> tuple[str, ...]:
        """As :data:`PART_HEADS`."""
        low, high = wilson(self.part.correct, self.part.n)
        ratio = "" if self.part.gradient is None else f"{self.part.gradient:.2g}"
        part, images = self.part, f"{self.part.n} still right" if self.part.left else f"all {self.part.n}"
        interval = f"[{low:.1f}, {high:.1f}]"
        return (self.defense, part.name, f"{part.correct:g}", images, f"{part.accuracy:.1f}", interval, ratio)


@dataclass(frozen=True)
class FilledParts:
    """The parts of a table's adaptive attacks; ``absent``: by defense, the word for why there are none."""

    table: PartTable
    lines: list[PartLine]
    absent: dict[str, str]

    def text(self) -> str:
        """As Markdown."""
        absent = "".join(f"\n{name}: {state}" for name, state in self.absent.items())
        about = f"{self.table.title}. {self.table.caption}"
        return f"{about}\n\n{grid(PART_HEADS, [line.cells for line in self.lines])}\n{absent}"

    def comma_separated(self) -> str:
        """One line per part, with the id of its record and the key of its bank."""
        heads = ("table", "defense", "part", "attack", "left", "accuracy", "low95", "high95", "correct", "images",
                 "gradient", "bank", "record")  # fmt: skip
        lines: list[list[object]] = []
        for line in self.lines:
            part, (low, high) = line.part, wilson(line.part.correct, line.part.n)
            number_of = [f"{part.accuracy:.2f}", f"{low:.2f}", f"{high:.2f}", f"{part.correct:g}", part.n]
            ratio = "" if part.gradient is None else f"{part.gradient:.4g}"
            about = [self.table.name, line.defense, part.name, part.attack, part.left]
            lines.append([*about, *number_of, ratio, part.bank or "", line.record])
        return to_csv(heads, lines)


def fill_parts(table: PartTable, index: RecordIndex) -> FilledParts:
    """Every part of the adaptive attacks of a table."""
    lines, absent = [], {}
    for row in rows(table.of, index):
        record = row.records.get("adaptive")
        if record is None:
            absent[row.about.name] = row.states["adaptive"]
        else:
            lines += [PartLine(row.about.name, part, record.id) for part in row.parts]
    return FilledParts(table, lines, absent)
