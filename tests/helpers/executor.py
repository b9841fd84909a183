"""Plans of runs that take no time, and where they lie."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from advpt.evaluation import record as records
from advpt.jobs.backends import Backend, LocalBackend
from advpt.jobs.display import Display
from advpt.jobs.executor import Executor
from advpt.jobs.places import Places
from advpt.jobs.plan import Job, Plan

FAKE = Path(__file__).parents[1] / "helpers" / "fake_train.py"


def jobs(n: int, **more) -> tuple[Job, ...]:
    return tuple(Job("T", "d", "b", -1, seed, "main", "a", "b", **more) for seed in range(1, n + 1))


class Place:
    """A plan of fake runs in a folder."""

    def __init__(self, folder: Path, plan: Plan, modes: dict[str, str] | None = None) -> None:
        self.plan, self.log, self.modes = plan, folder / "log.txt", modes or {}
        self.places = Places(FAKE.parent, folder, folder, folder)
        self.lines: list[str] = []

    def start(self, job: Job) -> list[str]:
        mode = [self.modes[job.id]] if job.id in self.modes else []
        return [sys.executable, "-S", str(FAKE), str(self.places.folder(job)), job.id, str(self.log), *mode]

    def run(self, slots: int = 1, backend: Backend | None = None, **options):
        display, backend = Display(self.lines.append), backend or LocalBackend(slots)
        return Executor(self.plan, self.places, backend=backend, start=self.start, display=display, **options).run()

    def count(self, what: str) -> Counter:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line.split()[1] for line in lines if line.startswith(what))

    def results(self) -> dict[str, str]:
        return {
            job.id: records.read(self.places.folder(job) / "records" / "test_clean.json").id for job in self.plan.jobs
        }
