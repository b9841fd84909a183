"""A plan: which runs of ``train.py`` a result needs, in which order, and which banks they share.

A plan is plain data; who executes it (:mod:`advpt.jobs.local`, or many machines) is not its business.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advpt import additions
from advpt.errors import ConfigError
from advpt.files import digest


@dataclass(frozen=True)
class BankNeed:
    """A bank that a run reads: its name, how many images it has, what one of them costs (GFLOP) and takes (bytes)."""

    label: str
    images: int
    gflop: float
    size: int


@dataclass(frozen=True)
class Tuning:
    """Steps of tuning on embeddings, and what one of them costs (GFLOP)."""

    steps: int = 0
    gflop: float = 0.0


@dataclass(frozen=True)
class Job:
    """One run of ``train.py``.

    ``dataset`` and ``backbone`` are names of yaml files; ``config`` and ``dataset_config`` those files, relative to the
    repository; ``purpose`` what is measured; ``settings`` are KEY VALUE pairs. ``model``: id of the job whose prompt is
    evaluated, "" for a run that trains its own; ``runs``: settings whose values are folders of other jobs, by id. What
    follows them says how much work it is, and is not in the id.
    """

    trainer: str
    dataset: str
    backbone: str
    shots: int
    seed: int
    purpose: str
    config: str
    dataset_config: str
    settings: tuple[tuple[str, str], ...] = ()
    model: str = ""
    runs: tuple[tuple[str, str], ...] = ()
    banks: tuple[BankNeed, ...] = field(default=(), compare=False)
    gflop: float = field(default=0.0, compare=False)  # through the image encoder, besides the banks
    tuning: Tuning = field(default=Tuning(), compare=False)
    size: int = field(default=0, compare=False)  # bytes besides the banks

    def fields(self) -> dict[str, Any]:
        """All that determines what the run does, but for where data, weights and results lie."""
        return {
            "trainer": self.trainer,
            "dataset": self.dataset,
            "shots": self.shots,
            "seed": self.seed,
            "config": self.config,
            "dataset_config": self.dataset_config,
            "settings": [list(pair) for pair in self.settings if not additions.is_as_before(*pair)],
            "model": self.model,
        } | ({"runs": [list(pair) for pair in self.runs]} if self.runs else {})

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the jobs whose folders it reads."""
        return (*([self.model] if self.model else []), *(other for _, other in self.runs))

    @functools.cached_property
    def id(self) -> str:
        """The first 12 digits of the SHA-256 of :meth:`fields`."""
        return digest(self.fields())[:12]

    @property
    def folder(self) -> Path:
        """Where the run's output lies, below the plan's output folder."""
        shots = f"{self.shots if self.shots > 0 else 'all'}shots"
        return Path(
            "runs", self.dataset, self.backbone, f"{self.trainer}_{self.purpose}_{shots}", f"seed{self.seed}-{self.id}"
        )

    @property
    def label(self) -> str:
        """For people."""
        shots = f", {self.shots} shots" if self.shots > 0 else ""
        return f"{self.trainer} {self.purpose}, {self.dataset}, {self.backbone}{shots}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Jobs in the order in which they may be started one by one."""

    jobs: tuple[Job, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for job in self.jobs:
            if job.id in seen:
                raise ConfigError(f"the plan has {job.label} twice")
            for other in job.needs:
                if other not in seen:
                    raise ConfigError(f"{job.label} evaluates run {other}, which does not stand before it in the plan")
            seen.add(job.id)

    @functools.cached_property
    def by_id(self) -> Mapping[str, Job]:
        return {job.id: job for job in self.jobs}

    @functools.cached_property
    def waits_for(self) -> Mapping[str, tuple[str, ...]]:
        """By job, those that should have ended before it starts: each shared bank is built by the first that needs it.
        (A job whose builder failed builds the bank itself.)"""
        builder: dict[str, str] = {}
        found = {}
        for job in self.jobs:
            first = [builder.setdefault(bank.label, job.id) for bank in job.banks]
            found[job.id] = tuple(dict.fromkeys(i for i in first if i != job.id))
        return found

    @functools.cached_property
    def shared_banks(self) -> Mapping[str, tuple[str, ...]]:
        """Banks that several jobs read, with the ids of these jobs."""
        users: dict[str, list[str]] = {}
        for job in self.jobs:
            for bank in job.banks:
                users.setdefault(bank.label, []).append(job.id)
        return {label: tuple(ids) for label, ids in users.items() if len(ids) > 1}

    def work(self, done: Iterable[str] = ()) -> tuple[float, int]:
        """GFLOP and bytes of what is not done yet, every bank counted once."""
        finished = set(done)
        built = {bank.label for job in self.jobs if job.id in finished for bank in job.banks}
        gflop, size = 0.0, 0
        for job in self.jobs:
            if job.id in finished:
                continue
            gflop, size = gflop + job.gflop + job.tuning.steps * job.tuning.gflop, size + job.size
            for bank in job.banks:
                if bank.label not in built:
                    built.add(bank.label)
                    gflop, size = gflop + bank.images * bank.gflop, size + bank.images * bank.size
        return gflop, size


class Planner:
    """Collects jobs; the same job asked for twice is one job."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def add(self, job: Job) -> str:
        """The job's id."""
        self._jobs.setdefault(job.id, job)
        return job.id

    def plan(self) -> Plan:
        return Plan(tuple(self._jobs.values()))
