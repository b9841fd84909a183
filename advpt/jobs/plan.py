"""A plan: runs of ``train.py`` in the order in which they may be started.

A plan is plain data; :mod:`advpt.jobs.executor` executes it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from advpt import additions
from advpt.errors import ConfigError
from advpt.files import digest

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Job:
    """One process of ``train.py``: one run, or several that differ in their seed alone.

    Args:
        trainer: its registered name. dataset, backbone: names of yaml files. shots: images per class, -1 for all.
        seed: of the run. purpose: what is measured, for the folder's name.
        config, dataset_config: yaml files of the trainer and the data set, relative to the repository.
        settings: KEY VALUE pairs. model: id of the job whose prompt is evaluated, "" for a run that trains its own.
        runs: settings whose values are folders of other jobs, by id; behind a slash a file in there.
        after: ids of jobs that must have ended before this one starts, however they ended; not part of the id.
        place: folder below the plan's output folder, "" for one that is made of the fields and the id.
        seeds: of a job of several runs, in ``seed1``, ``seed2``, ... below its folder; empty for one run.
    """

    trainer: str
    dataset: str
    backbone: str
    shots: int
    seed: int
    purpose: str
    config: str
    dataset_config: str
    settings: Pairs = ()
    model: str = ""
    runs: Pairs = ()
    after: tuple[str, ...] = field(default=(), compare=False)
    place: str = ""
    seeds: tuple[int, ...] = ()

    def fields(self) -> dict[str, object]:
        """All that determines what the run does, but for where data, weights and results lie."""
        names = ("trainer", "dataset", "shots", "seed", "config", "dataset_config", "model")
        fields: dict[str, object] = {name: getattr(self, name) for name in names}
        fields["settings"] = [list(pair) for pair in self.settings if not additions.is_as_before(*pair)]
        if self.runs:
            fields["runs"] = [list(pair) for pair in self.runs]
        if self.place:
            fields |= {"place": self.place, "seeds": list(self.seeds)}
        return fields

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the jobs whose folders it reads."""
        return (*([self.model] if self.model else []), *(other.partition("/")[0] for _, other in self.runs))

    @property
    def is_evaluated(self) -> bool:
        """Whether it ends with records; a run with TEST.NO_TEST only trains."""
        return ("TEST.NO_TEST", "True") not in self.settings

    @functools.cached_property
    def id(self) -> str:
        """The first 12 digits of the SHA-256 of :meth:`fields`."""
        return digest(self.fields())[:12]

    @property
    def folder(self) -> Path:
        """Where its output lies, below the plan's output folder."""
        if self.place:
            return Path(self.place)
        shots = f"{self.shots if self.shots > 0 else 'all'}shots"
        return Path(
            "runs", self.dataset, self.backbone, f"{self.trainer}_{self.purpose}_{shots}", f"seed{self.seed}-{self.id}"
        )

    @property
    def label(self) -> str:
        """Its name in messages."""
        if self.place:
            seeds = ",".join(map(str, self.seeds))
            return f"{self.place}, seed{'s' * (len(self.seeds) > 1)} {seeds}" if seeds else self.place
        shots = f", {self.shots} shots" if self.shots > 0 else ""
        return f"{self.trainer} {self.purpose}, {self.dataset}, {self.backbone}{shots}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Jobs in the order in which they may be started one by one.

    Raises:
        ConfigError: a job stands there twice, or before one that it needs.
    """

    jobs: tuple[Job, ...]

    def __post_init__(self) -> None:
        before: set[str] = set()
        for job in self.jobs:
            if job.id in before:
                raise ConfigError(f"the plan has {job.label} twice")
            for other in (*job.needs, *job.after):
                if other not in before:
                    raise ConfigError(f"{job.label} evaluates run {other}, which does not stand before it in the plan")
            before.add(job.id)

    @functools.cached_property
    def by_id(self) -> Mapping[str, Job]:
        return {job.id: job for job in self.jobs}


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
