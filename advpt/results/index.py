"""Records of the runs of a report, and notes on all that is wrong with them: the report shows what is missing, invalid,
duplicate or orphaned. Numbers come from records only, never from logs."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation.record import Record
from advpt.results.exhibit import Metric

log = logging.getLogger(__name__)
State = Literal["done", "failed", "not run"]


@dataclass(frozen=True)
class Run:
    """A run of the report: its id, folder, seed, state, its name in notes, and its log."""

    id: str
    folder: Path
    seed: int
    state: State
    label: str = ""
    log: Path | None = None

    @property
    def name(self) -> str:
        """As notes call it."""
        return self.label or self.id


@dataclass(frozen=True)
class Note:
    """What a reader of the report must know. ``kind``: missing, refused, duplicate, stray, failed or warning."""

    kind: str
    text: str


class Measurement(NamedTuple):
    """What a record measures: two records of one run that agree in this are duplicates."""

    protocol: str | None
    attack: str
    defense: str
    part: bool
    images: str

    @classmethod
    def of(cls, record: Record) -> Measurement:
        r = record.result
        return cls(r.protocol, r.attack.label if r.attack else "", r.defense_name, r.images.part, r.images.digest)

    def holds(self, metric: Metric) -> bool:
        """Whether a metric is among its numbers; those of a part of the images stand beside a defense only."""
        if metric.protocol is not None and (self.protocol, self.attack) != (metric.protocol, metric.attack):
            return False
        return self.defense == metric.defense and (not self.part or bool(metric.defense))


@dataclass
class RecordIndex:
    """Runs by id, their records read once. ``top``: where paths in notes begin; ``used``: by id, the records behind the
    numbers of the report, each with the label of its run."""

    runs: Mapping[str, Run] = field(default_factory=dict)
    top: Path | None = None
    notes: list[Note] = field(default_factory=list)
    used: dict[str, tuple[str, Record]] = field(default_factory=dict)
    _read: dict[str, dict[Measurement, Record]] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)  # ids of runs

    def note(self, kind: str, text: str) -> None:
        if Note(kind, text) not in self.notes:
            self.notes.append(Note(kind, text))

    def refuse(self, error: RecordError, path: Path) -> None:
        """Note a file that cannot be used."""
        self.note("refused", str(error).replace(str(path), self.path_text(path)))

    def path_text(self, path: Path) -> str:
        """A path for messages: below the report's top where it lies there."""
        return str(path.relative_to(self.top) if self.top is not None and path.is_relative_to(self.top) else path)

    def use(self, record: Record, label: str) -> None:
        """List a record among those behind the numbers, and note its warnings."""
        self.used[record.id] = (label, record)
        for text in record.result.warnings:
            self.note("warning", f"{label}: {text}")

    def read(self, folder: Path) -> list[Record]:
        """The sound records in a folder, in the order of their paths; the others are noted."""
        sound = []
        for path in sorted(folder.glob("*.json")):
            try:
                sound.append(records.read(path))
            except RecordError as error:
                self.refuse(error, path)
        return sound

    def collect(self, folders: Sequence[Path]) -> list[Record]:
        """All sound records below the folders, equal ones once; RecordError where there is none."""
        by_id: dict[str, Record] = {}
        for folder in folders:
            if not folder.is_dir():
                raise RecordError(f"no folder {folder}; name the output folder of finished runs")
            for record in itertools.chain.from_iterable(map(self.read, _record_folders(folder))):
                by_id.setdefault(record.id, record)
        for note in self.notes:
            log.warning("left out: %s", note.text)
        if not by_id:
            raise RecordError(f"no records below {', '.join(map(str, folders))}; run train.py first")
        return list(by_id.values())

    def of(self, run: Run) -> dict[Measurement, Record]:
        """The sound records of a run, one for each measurement."""
        if run.id not in self._read:
            folder = run.folder / records.FOLDER
            by_measurement: dict[Measurement, list[Record]] = defaultdict(list)
            for record in (sound := self.read(folder)):
                by_measurement[Measurement.of(record)].append(record)
            if len(sound) < len(list(folder.glob("*.json"))):
                self._refused.add(run.id)
            self._read[run.id] = {key: self._newest(members) for key, members in by_measurement.items()}
        return self._read[run.id]

    def _newest(self, members: list[Record]) -> Record:
        files = {record.path: record for record in members if record.path is not None}
        newest = max(files, key=lambda path: (files[path].observed.finished or 0.0, path.stat().st_mtime))
        used = files.pop(newest)
        for path, other in files.items():
            same = "with the same result" if other.id == used.id else "with another result"
            self.note(
                "duplicate",
                f"{self.path_text(path)} and {self.path_text(newest)} measure the same thing {same}; the newest, "
                f"{used.id[:12]}, is used and {other.id[:12]} is not",
            )
        return used

    def find(self, run_id: str, metric: Metric) -> tuple[Record | None, str]:
        """The record that holds a number, as :meth:`first`."""
        return self.first(run_id, lambda record: Measurement.of(record).holds(metric), f"record of {metric}")

    def first(self, run_id: str, wanted: Callable[[Record], bool], what: str) -> tuple[Record | None, str]:
        """The first record of a run that is wanted (``what``: in words) and ``value``, else None and the word for why:
        ``not run``, ``failed``, ``refused``, ``missing``."""
        run = self.runs.get(run_id)
        if run is None:
            return None, "not run"
        record = next(filter(wanted, self.of(run).values()), None)
        if record is None:
            return None, self.why_missing(run, what)
        self.use(record, run.name)
        return record, "value"

    def why_missing(self, run: Run, what: str) -> str:
        """The word for why a run has no such record, which is noted where it is a fault."""
        if run.state == "failed":
            log = f"; its log is {self.path_text(run.log)}" if run.log is not None else ""
            self.note("failed", f"the run {run.name} failed{log}")
            return "failed"
        if run.id in self._refused:
            return "refused"
        if run.state == "done":
            self.note("missing", f"the run {run.name} is done, but its {what} is missing: run it again")
            return "missing"
        return "not run"

    def note_strays(self, top: Path) -> None:
        """Note records below a folder that belong to no run of this report."""
        known = {(run.folder / records.FOLDER).resolve() for run in self.runs.values()}
        for parent in _record_folders(top):
            if parent.resolve() not in known:
                text = f"the records in {self.path_text(parent)} belong to no run of this report; they are not used"
                self.note("stray", text)


def _record_folders(top: Path) -> list[Path]:
    return sorted({path.parent for path in top.glob(f"**/{records.FOLDER}/*.json")})
