"""Execute a plan on one machine: ``train.py`` as subprocesses, one after the other or several at a time.

A run is done when its own records say so, so a plan can be stopped or killed at any time and started again. Every run
holds a lock for as long as its process lives, also when the process that started it does not any more: nobody starts
the same run beside it. What became of a run is kept in ``<output>/jobs/<id>.json``, its output in ``<id>.log`` beside
it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advpt.errors import RecordError
from advpt.evaluation import run_folder
from advpt.files import open_locked, read_json, write_json
from advpt.jobs.plan import Job, Plan
from advpt.results.shelf import Run, State

log = logging.getLogger(__name__)

FOLDER = "jobs"
POLL = 0.1  # seconds
USERS_MISTAKE = 2  # train.py's exit status where trying again would not help


@dataclass(frozen=True)
class Places:
    """Where things lie on this machine: the repository, results, data sets, banks, and weight files by backbone."""

    repository: Path
    output: Path
    root: Path
    banks: Path
    weights: Mapping[str, str] = field(default_factory=dict)

    def folder(self, job: Job) -> Path:
        return self.output / job.folder


def command(job: Job, plan: Plan, places: Places) -> list[str]:
    """The words of a job's process."""
    words = [sys.executable, str(places.repository / "train.py")]
    words += ["--trainer", job.trainer, "--config-file", str(places.repository / job.config)]
    words += ["--dataset-config-file", str(places.repository / job.dataset_config), "--root", str(places.root)]
    words += ["--seed", str(job.seed), "--output-dir", str(places.folder(job)), "--skip-done"]
    if job.model:
        words += ["--eval-only", "--model-dir", str(places.folder(plan.by_id[job.model]))]
    words += ["VERBOSE", "False", "BANK.DIR", str(places.banks), "DATASET.NUM_SHOTS", str(job.shots)]
    if weights := places.weights.get(job.backbone):
        words += ["MODEL.WEIGHTS", weights]
    return words + [word for pair in job.settings for word in pair]


@dataclass
class Summary:
    """What became of a plan's jobs: ids by state, and of each failure why and where its log is."""

    done: list[str] = field(default_factory=list)  # in this call
    there: list[str] = field(default_factory=list)  # done before
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)  # needs a run that failed
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.failed and not self.blocked


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    lock: int
    slot: int
    attempt: int
    started: float


class Executor:
    """Runs a plan's jobs; see :meth:`run`.

    Args:
        start: gives the words of a job's process (:func:`command`).
        slots: processes at a time. retries: further attempts after a failure.
        tell: takes one line for people whenever something begins or ends.
        gpus: processes get one GPU each, in turn; 0: none is handed out.
    """

    def __init__(
        self,
        plan: Plan,
        places: Places,
        *,
        start: Callable[[Job], Sequence[str]] | None = None,
        slots: int = 1,
        retries: int = 1,
        tell: Callable[[str], None] = log.info,
        gpus: int = 0,
    ) -> None:
        self.plan, self.places, self.slots, self.retries, self.tell, self.gpus = (
            plan,
            places,
            slots,
            retries,
            tell,
            gpus,
        )
        self.start = start or (lambda job: command(job, plan, places))
        self._running: dict[str, _Running] = {}
        self._attempts: dict[str, int] = {}
        self._told: set[str] = set()

    def run(self) -> Summary:
        """Execute what is not done yet. A failed job does not stop the others; what evaluates its prompt is blocked.

        When this process is interrupted its runs are ended too, and go on when the plan is started again.
        """
        started, summary = time.monotonic(), Summary()
        pending = [job for job in self.plan.jobs if not self._is_there(job, summary)]
        try:
            while pending or self._running:
                self._collect(summary, pending)
                self._launch(summary, pending)
                if pending or self._running:
                    time.sleep(POLL)
        except BaseException:
            self._end_all()
            raise
        summary.seconds = time.monotonic() - started
        return summary

    def _is_there(self, job: Job, summary: Summary) -> bool:
        if is_complete(job, self.places):
            summary.there.append(job.id)
            return True
        return False

    def _launch(self, summary: Summary, pending: list[Job]) -> None:
        for job in list(pending):
            if len(self._running) >= self.slots:
                return
            if why := self._blocked(job, summary):
                pending.remove(job)
                summary.blocked[job.id] = why
                self.tell(f"left out  {job.label}: {why}")
                continue
            waiting = {other.id for other in pending} | self._running.keys()
            before = (*self.plan.waits_for[job.id], *([job.model] if job.model else []))
            if any(i in waiting for i in before):
                continue
            lock = open_locked(self._path(job, "lock"), wait=False)
            if lock is None:
                if job.id not in self._told:
                    self._told.add(job.id)
                    self.tell(f"waiting   {job.label}: another process is at work on it")
                continue
            if is_complete(job, self.places):  # by whoever held the lock
                os.close(lock)
                pending.remove(job)
                summary.there.append(job.id)
                continue
            pending.remove(job)
            self._begin(job, lock)

    def _blocked(self, job: Job, summary: Summary) -> str:
        if job.model in summary.failed or job.model in summary.blocked:
            return f"it evaluates the prompt of a run that failed ({self.plan.by_id[job.model].label})"
        return ""

    def _begin(self, job: Job, lock: int) -> None:
        attempt = self._attempts[job.id] = self._attempts.get(job.id, 0) + 1
        slot = min(set(range(self.slots)) - {r.slot for r in self._running.values()})
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.slots)))
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot % self.gpus)
        self._write(job, "running", attempt, 0.0, "")
        os.set_inheritable(lock, True)  # held for as long as the run's process lives, whatever becomes of this one
        with self._path(job, "log").open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - the words are ours
                list(self.start(job)),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.places.repository,
                env=environment,
                pass_fds=(lock,),
            )
        os.close(lock)
        self._running[job.id] = _Running(job, process, lock, slot, attempt, time.monotonic())
        self.tell(f"started   {job.label} ({job.id})" + (f", attempt {attempt}" if attempt > 1 else ""))

    def _collect(self, summary: Summary, pending: list[Job]) -> None:
        for run in list(self._running.values()):
            status = run.process.poll()
            if status is None:
                continue
            del self._running[run.job.id]
            seconds = time.monotonic() - run.started
            problems = run_folder.problems(self.places.folder(run.job)) if status == 0 else []
            if status == 0 and not problems:
                summary.done.append(run.job.id)
                self._write(run.job, "done", run.attempt, seconds, "")
                self.tell(f"done      {run.job.label} ({seconds:.0f} s)")
                continue
            why = problems[0] if problems else self._reason(run.job, status)
            if run.attempt <= self.retries and status != USERS_MISTAKE:
                pending.insert(0, run.job)
                self.tell(f"again     {run.job.label}: {why}")
                continue
            summary.failed[run.job.id] = why
            self._write(run.job, "failed", run.attempt, seconds, why)
            self.tell(f"FAILED    {run.job.label}: {why}; log: {self._path(run.job, 'log')}")

    def _reason(self, job: Job, status: int) -> str:
        """The last ``error:`` line of the log, or how the process ended."""
        lines = self._path(job, "log").read_text(encoding="utf-8", errors="replace").splitlines()[-200:]
        said = [line for line in lines if line.startswith("error: ")]
        if status < 0:
            return f"ended by signal {signal.Signals(-status).name}"
        return (
            said[-1].removeprefix("error: ")
            if said
            else next((x for x in reversed(lines) if x.strip()), f"status {status}")
        )

    def _end_all(self) -> None:
        for run in self._running.values():
            run.process.terminate()
        for run in self._running.values():
            try:
                run.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                run.process.kill()
                run.process.wait()
        self._running.clear()

    def _path(self, job: Job, ending: str) -> Path:
        folder = self.places.output / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{job.id}.{ending}"

    def _write(self, job: Job, state: str, attempt: int, seconds: float, why: str) -> None:
        about: dict[str, Any] = {"job": job.fields(), "label": job.label, "folder": str(job.folder)}
        write_json(
            self._path(job, "json"),
            about | {"state": state, "attempt": attempt, "seconds": round(seconds, 1), "why": why},
        )


def is_complete(job: Job, places: Places) -> bool:
    """Whether a job's records are all there and sound."""
    return not run_folder.problems(places.folder(job))


def state_of(job: Job, places: Places) -> State:
    """What a report says of a job: done when it once finished (its records may have gone since), failed, or not run."""
    if (places.folder(job) / run_folder.DONE).is_file():
        return "done"
    try:
        said = read_json(places.output / FOLDER / f"{job.id}.json", RecordError).get("state")
    except (RecordError, AttributeError):
        return "not run"
    return "failed" if said == "failed" else "not run"


def runs(plan: Plan, places: Places) -> dict[str, Run]:
    """The jobs as a report sees them."""
    return {
        job.id: Run(
            job.id,
            places.folder(job),
            job.seed,
            state_of(job, places),
            job.label,
            places.output / FOLDER / f"{job.id}.log",
        )
        for job in plan.jobs
    }
