"""The records of the runs that a report is made of, and everything that is wrong with them, in words.

A record that is missing, refused, there twice or nobody's changes the report visibly: its cells say so, and so does the
list of notes. Nothing is read from logs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation.record import Record
from advpt.results.layout import Metric

State = Literal["done", "failed", "not run"]


@dataclass(frozen=True)
class Run:
    """A run of the report: its id, folder, seed, what became of it, and its name for people."""

    id: str
    folder: Path
    seed: int
    state: State
    label: str = ""
    log: Path | None = None


@dataclass(frozen=True)
class Note:
    """Something that a reader of the report must know. ``kind``: missing, refused, duplicate, stray,
    failed or warning."""

    kind: str
    text: str


@dataclass
class RecordIndex:
    """Runs by id, their records read once."""

    runs: Mapping[str, Run]
    top: Path | None = None  # where paths in notes begin
    notes: list[Note] = field(default_factory=list)
    used: dict[str, tuple[Record, Run]] = field(default_factory=dict)  # by record id, as cells ask for them
    _read: dict[str, dict[tuple[Any, ...], Record]] = field(default_factory=dict)
    _refused: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, kind: str, text: str) -> None:
        if Note(kind, text) not in self.notes:
            self.notes.append(Note(kind, text))

    def name(self, path: Path) -> str:
        """A path for people: below the report's top where it lies there."""
        if self.top is not None and path.is_relative_to(self.top):
            return str(path.relative_to(self.top))
        return str(path)

    def of(self, run: Run) -> dict[tuple[Any, ...], Record]:
        """The sound records of a run, one for each measurement."""
        if run.id not in self._read:
            self._read[run.id] = self._scan(run)
        return self._read[run.id]

    def _scan(self, run: Run) -> dict[tuple[Any, ...], Record]:
        found: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
        for path in sorted((run.folder / records.FOLDER).glob("*.json")):
            try:
                record = records.read(path)
            except RecordError as error:
                self._refused[run.id].append(str(path))
                self.note("refused", str(error).replace(str(path), self.name(path)))
                continue
            found[measurement(record)].append(record)
        kept = {}
        for key, members in found.items():
            newest = max(members, key=_age)
            kept[key] = newest
            for other in members:
                if other is newest or other.path is None or newest.path is None:
                    continue
                same = "with the same result" if other.id == newest.id else "with another result"
                self.note(
                    "duplicate",
                    f"{self.name(other.path)} and {self.name(newest.path)} measure the same thing {same}; the newest, "
                    f"{newest.id[:12]}, is used and {other.id[:12]} is not",
                )
        return kept

    def find(self, run_id: str, metric: Metric) -> tuple[Record | None, str]:
        """The record that holds a number, or None and the word for why: ``not run``, ``failed``, ``refused``,
        ``missing``."""
        run = self.runs.get(run_id)
        if run is None:
            return None, "not run"
        for key, record in self.of(run).items():
            if _holds(key, record, metric):
                self.used[record.id] = (record, run)
                return record, "value"
        if run.state == "failed":
            log = f"; its log is {self.name(run.log)}" if run.log is not None else ""
            self.note("failed", f"the run {run.label or run.id} failed{log}")
            return None, "failed"
        if self._refused.get(run_id):
            return None, "refused"
        if run.state == "not run":
            return None, "not run"
        self.note(
            "missing", f"the run {run.label or run.id} is done, but its record of {metric} is missing: run it again"
        )
        return None, "missing"

    def strays(self, folders: Iterable[Path]) -> None:
        """Note records below ``folders`` that belong to no run of this report."""
        known = {(run.folder / records.FOLDER).resolve() for run in self.runs.values()}
        for folder in folders:
            nobody = sorted(
                {p.parent for p in folder.glob(f"**/{records.FOLDER}/*.json") if p.parent.resolve() not in known}
            )
            for parent in nobody:
                self.note(
                    "stray", f"the records in {self.name(parent)} belong to no run of this report; they are not used"
                )


def measurement(record: Record) -> tuple[Any, ...]:
    """What a record measures: two records of one run that agree in this are duplicates."""
    r = record.result
    attack = r.get("attack") or {}
    images = r.get("images") or {}
    asked = str(attack.get("asked", attack.get("spec", "")))
    return (r.get("protocol"), asked, "+".join(r.get("defenses") or []), bool(images.get("part")), images.get("digest"))


def _holds(key: tuple[Any, ...], record: Record, metric: Metric) -> bool:
    protocol, asked, defense, part, _ = key
    if metric.protocol is None:
        return bool(defense == metric.defense and (not part or metric.defense))
    wanted = (protocol, asked, defense) == (metric.protocol, metric.attack, metric.defense)
    return bool(wanted and record.result.get("robust") is not None and (not part or metric.defense))


def _age(record: Record) -> tuple[float, float]:
    path = record.path
    finished = record.observed.get("finished")
    return float(finished) if isinstance(
        finished, int | float
    ) else 0.0, path.stat().st_mtime if path is not None else 0.0


def part(record: Record, metric: Metric) -> dict[str, Any]:
    """The clean or robust part of a record."""
    found: dict[str, Any] = record.result["clean" if metric.protocol is None else "robust"]
    return found
