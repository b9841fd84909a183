"""Execute a plan: ``train.py`` as subprocesses, one after the other or several at a time, on this machine or a cluster.

A run is done when its own records say so, so a plan can be stopped or killed at any time and started again. Every run
holds a lock for as long as its process lives, even when the process that started it has gone: the same run is never
started beside it. What became of a run is kept in ``<output>/jobs/<id>.json``, its output in ``<id>.log`` beside it.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from advpt import progress
from advpt.evaluation import run_folder
from advpt.files import open_locked, write_json
from advpt.jobs.backends import Backend, LocalBackend
from advpt.jobs.display import Display, in_words
from advpt.jobs.estimate import Recorded
from advpt.jobs.places import Places, command, is_complete, may_change, problems
from advpt.jobs.plan import Job, Plan
from advpt.jobs.process import POLL_SECONDS, ProcessSpec

log = logging.getLogger(__name__)

MISTAKE_STATUS = 2  # train.py's exit status where trying again would not help
STATUS_SECONDS = 0.5  # between two looks at how far the running jobs are
ERROR_LINES = 20  # of a log, at most, from an ``error:`` on


@dataclass
class Summary:
    """What became of a plan's jobs: ids by state, and for each failure the reason."""

    done: list[str] = field(default_factory=list)  # in this call
    there: list[str] = field(default_factory=list)  # done before
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)  # needs a run that failed, or was not reached
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failed and not self.blocked


class Executor:
    """Runs a plan's jobs, once; see :meth:`run`.

    Args:
        backend: runs the processes; one at a time on this machine if not given.
        start: gives the words of a job's process (:func:`advpt.jobs.places.command`).
        retries: further attempts after a failure.
        keep_going: whether a failed job leaves the others alone; else no job begins after it.
        display: takes what happens.
    """

    def __init__(
        self,
        plan: Plan,
        places: Places,
        *,
        backend: Backend | None = None,
        start: Callable[[Job], Sequence[str]] | None = None,
        retries: int = 1,
        keep_going: bool = True,
        display: Display | None = None,
    ) -> None:
        self.plan, self.places, self.retries, self.keep_going = plan, places, retries, keep_going
        self.display = display or Display(log.info)
        self.backend = backend or LocalBackend()
        self.start = start or (lambda job: command(job, plan, places))
        self.recorded = Recorded(places.output)
        self.summary = Summary()
        self._pending: list[Job] = []
        self._running: dict[str, float] = {}  # ids, and when they began
        self._attempts: dict[str, int] = {}
        self._marks: dict[str, list[int]] = {}  # when a job's runs were last marked as done, before it began
        self._waiting: set[str] = set()  # ids whose lock another process holds

    def run(self) -> Summary:
        """Execute what is not done yet. What reads the folder of a failed job is blocked.

        When this process is interrupted its runs are ended too, and go on when the plan is started again.
        """
        started, next_status = time.monotonic(), 0.0
        self._pending = [job for job in self.plan.jobs if not self._is_there(job)]
        try:
            while self._pending or self._running:
                self._collect()
                self._launch()
                if time.monotonic() >= next_status:
                    self.display.status(self._status())
                    next_status = time.monotonic() + STATUS_SECONDS
                if self._pending or self._running:
                    time.sleep(POLL_SECONDS)
        except BaseException:
            self.display.status([])
            self.backend.end()
            raise
        self.display.status([])
        self.summary.seconds = time.monotonic() - started
        return self.summary

    def _is_there(self, job: Job) -> bool:
        there = is_complete(job, self.places) and not may_change(job)
        if there:
            self.summary.there.append(job.id)
        return there

    def _launch(self) -> None:
        for job in list(self._pending):
            if self.backend.room() < 1:
                return
            if why := self._blocked(job):
                self._pending.remove(job)
                self.summary.blocked[job.id] = why
                self.display.event(f"left out  {job.label}: {why}")
                continue
            unfinished = {other.id for other in self._pending} | self._running.keys()
            if unfinished & {*job.needs, *job.after}:
                continue
            lock = open_locked(self.places.file(job, "lock"), wait=False)
            if lock is None:
                if job.id not in self._waiting:
                    self._waiting.add(job.id)
                    self.display.event(f"waiting   {job.label}: another process runs it")
                continue
            self._pending.remove(job)
            if self._is_there(job):  # the process that had the lock did it
                os.close(lock)
                continue
            self._begin(job, lock)

    def _blocked(self, job: Job) -> str:
        for other in job.needs:
            if other in self.summary.failed or other in self.summary.blocked:
                return f"it evaluates the prompt of a run that failed ({self.plan.by_id[other].label})"
        return "a run before it failed" if self.summary.failed and not self.keep_going else ""

    def _begin(self, job: Job, lock: int) -> None:
        attempt = self._attempts[job.id] = self._attempts.get(job.id, 0) + 1
        self._marks[job.id] = self._done_marks(job) if is_complete(job, self.places) else []
        if not self._marks[job.id]:
            self._write(job, "running", attempt)
        report = self.places.file(job, "progress")
        report.unlink(missing_ok=True)
        environment = {**self.backend.environment, progress.VARIABLE: str(report)}
        self._running[job.id] = time.monotonic()
        log, repository = self.places.file(job, "log"), self.places.repository
        self.backend.begin(ProcessSpec(job.id, tuple(self.start(job)), log, repository, environment), lock)
        self.display.event(f"started   {job.label} ({job.id})" + (f", attempt {attempt}" if attempt > 1 else ""))

    def _collect(self) -> None:
        for exit in self.backend.ended():
            job, attempt = self.plan.by_id[exit.id], self._attempts[exit.id]
            del self._running[job.id]
            self.places.file(job, "progress").unlink(missing_ok=True)
            why = exit.why or self._problem(job, exit.status)
            if not why and self._marks[job.id] and self._marks[job.id] == self._done_marks(job):
                self.summary.there.append(job.id)
                self.display.event(f"done already  {job.label}")
            elif not why:
                self.summary.done.append(job.id)
                self._write(job, "done", attempt, exit.seconds)
                self.recorded.add((job.trainer, job.dataset, job.backbone), job.folder, exit.seconds)
                self.display.event(f"done      {job.label} ({exit.seconds:.0f} s)")
            elif attempt <= self.retries and exit.status != MISTAKE_STATUS:
                self._pending.insert(0, job)
                self.display.event(f"again     {job.label}: {why}")
            else:
                self.summary.failed[job.id] = why
                self._write(job, "failed", attempt, exit.seconds, why)
                self.display.event(f"FAILED    {job.label}: {why}; log: {self.places.file(job, 'log')}")

    def _done_marks(self, job: Job) -> list[int]:
        """When each of a job's runs was marked as done; empty where one is not."""
        files = [folder / run_folder.DONE for folder in self.places.run_folders(job)]
        return [file.stat().st_mtime_ns for file in files] if all(file.is_file() for file in files) else []

    def _status(self) -> list[str]:
        """A line for each running job, and one for the plan."""
        now, summary = time.monotonic(), self.summary
        running = {self.plan.by_id[id]: now - begun for id, begun in self._running.items()}
        lines = [f"{job.label}: {progress.read(self.places.file(job, 'progress')) or 'starting'}" for job in running]
        ended = len(summary.done) + len(summary.there) + len(summary.failed) + len(summary.blocked)
        line = f"{ended} of {len(self.plan.jobs)} runs done, {len(running)} running"
        left = self.recorded.seconds_left(self._pending, running)
        if left is not None:
            line += f"; about {in_words(left / max(1, len(running)))} left"
        return [*lines, line]

    def _problem(self, job: Job, status: int) -> str:
        """What a job lacks, the last ``error:`` of its log with the lines behind it, or how its process ended; "" where
        nothing is wrong."""
        if status == 0:
            return next(iter(problems(job, self.places)), "")
        if status < 0:
            return f"ended by signal {signal.Signals(-status).name}"
        lines = self.places.file(job, "log").read_text(encoding="utf-8", errors="replace").splitlines()[-200:]
        errors = [at for at, line in enumerate(lines) if line.startswith("error: ")]
        if errors:
            message = itertools.takewhile(lambda line: not line.startswith("Traceback"), lines[errors[-1] :])
            if text := "\n".join(itertools.islice(message, ERROR_LINES)).removeprefix("error: ").strip():
                return text
        return next((line for line in reversed(lines) if line.strip()), f"status {status}")

    def _write(self, job: Job, state: str, attempt: int, seconds: float = 0.0, why: str = "") -> None:
        about = {"job": job.fields(), "label": job.label, "folder": str(job.folder), "backbone": job.backbone}
        outcome = {"state": state, "attempt": attempt, "seconds": round(seconds, 1), "why": why}
        write_json(self.places.file(job, "json"), about | outcome)
