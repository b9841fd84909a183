"""Execute a plan: ``train.py`` as subprocesses, one after the other or several at a time, on this machine or a cluster.

A run is done when its own records say so, so a plan can be stopped or killed at any time and started again. Every run
holds a lock for as long as its process lives, also when the process that started it does not any more: nobody starts
the same run beside it. What became of a run is kept in ``<output>/jobs/<id>.json``, its output in ``<id>.log`` beside
it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from advpt.attacks.spec import FILES
from advpt.data import catalog
from advpt.errors import RecordError
from advpt.evaluation import run_folder
from advpt.files import open_locked, read_json, write_json
from advpt.jobs.plan import Job, Plan
from advpt.jobs.process import POLL_SECONDS, ProcessExit, ProcessSpec, start
from advpt.results.index import Run, State

log = logging.getLogger(__name__)

FOLDER = "jobs"
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
        """Of a job's results. For data of one's own it has their name; where runs of before lie, they go on."""
        usual = self.output / job.folder
        if not is_own(job) or usual.is_dir():
            return usual
        name = catalog.title_of("ImageFolder", self.root, dict(job.settings).get("DATASET.TITLE", ""))
        first, _, *rest = job.folder.parts
        return usual if name == "ImageFolder" else self.output.joinpath(first, name, *rest)


def is_own(job: Job) -> bool:
    """Whether a job is about data of one's own."""
    return catalog.canonical(job.dataset) == "ImageFolder"


def may_change(job: Job) -> bool:
    """Whether a job reads what may change behind the same name: data of one's own, or images made elsewhere."""
    return is_own(job) or FILES in dict(job.settings).get("EVAL.ATTACKS", "")


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
    words += [word for key, other in job.runs for word in (key, str(places.folder(plan.by_id[other])))]
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


class Backend(Protocol):
    """Who runs processes: slots of this machine (:class:`LocalBackend`), or a cluster (:mod:`advpt.jobs.on_ray`)."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process is told, besides where it runs."""

    def room(self) -> int:
        """How many more processes may begin now."""

    def begin(self, spec: ProcessSpec, lock: int) -> None:
        """Begin one; from now on the open file ``lock`` belongs to the hands."""

    def ended(self) -> list[ProcessExit]:
        """Those that ended since the last call."""

    def end(self) -> None:
        """End all that are at work."""


class LocalBackend:
    """Processes on this machine.

    Args:
        n: at a time. gpus: each process gets one GPU, in turn; 0: none is handed out.
    """

    def __init__(self, n: int = 1, gpus: int = 0) -> None:
        self.n, self.gpus = n, gpus
        self._at_work: dict[int, tuple[ProcessSpec, subprocess.Popen[bytes], float]] = {}  # by slot
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // n))
        self.environment = {**os.environ, "OMP_NUM_THREADS": threads}

    def room(self) -> int:
        return self.n - len(self._at_work)

    def begin(self, spec: ProcessSpec, lock: int) -> None:
        """The lock is held by the process for as long as it lives, whatever becomes of this one."""
        slot = min(set(range(self.n)) - self._at_work.keys())
        if self.gpus:
            gpu = {"CUDA_VISIBLE_DEVICES": str(slot % self.gpus)}
            spec = dataclasses.replace(spec, environment={**spec.environment, **gpu})
        self._at_work[slot] = (spec, start(spec, lock), time.monotonic())
        os.close(lock)

    def ended(self) -> list[ProcessExit]:
        found = []
        for slot, (spec, process, begun) in list(self._at_work.items()):
            if (status := process.poll()) is not None:
                del self._at_work[slot]
                found.append(ProcessExit(spec.id, status, time.monotonic() - begun))
        return found

    def end(self) -> None:
        for _, process, _ in self._at_work.values():
            process.terminate()
        for _, process, _ in self._at_work.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._at_work.clear()


class Executor:
    """Runs a plan's jobs; see :meth:`run`.

    Args:
        backend: who runs the processes, one at a time on this machine if not given.
        start: gives the words of a job's process (:func:`command`).
        retries: further attempts after a failure.
        tell: takes one line for people whenever something begins or ends.
    """

    def __init__(
        self,
        plan: Plan,
        places: Places,
        *,
        backend: Backend | None = None,
        start: Callable[[Job], Sequence[str]] | None = None,
        retries: int = 1,
        tell: Callable[[str], None] = log.info,
    ) -> None:
        self.plan, self.places, self.retries, self.tell = plan, places, retries, tell
        self.backend: Backend = backend or LocalBackend()
        self.start = start or (lambda job: command(job, plan, places))
        self._running: set[str] = set()
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
                    time.sleep(POLL_SECONDS)
        except BaseException:
            self.backend.end()
            raise
        summary.seconds = time.monotonic() - started
        return summary

    def _may_skip(self, job: Job) -> bool:
        """Whether a job is done; one whose data may change is started even so, as the run itself compares them."""
        return is_complete(job, self.places) and not may_change(job)

    def _is_there(self, job: Job, summary: Summary) -> bool:
        if self._may_skip(job):
            summary.there.append(job.id)
            return True
        return False

    def _launch(self, summary: Summary, pending: list[Job]) -> None:
        for job in list(pending):
            if self.backend.room() < 1:
                return
            if why := self._blocked(job, summary):
                pending.remove(job)
                summary.blocked[job.id] = why
                self.tell(f"left out  {job.label}: {why}")
                continue
            waiting = {other.id for other in pending} | self._running
            before = (*self.plan.waits_for[job.id], *job.needs)
            if any(i in waiting for i in before):
                continue
            lock = open_locked(self._path(job, "lock"), wait=False)
            if lock is None:
                if job.id not in self._told:
                    self._told.add(job.id)
                    self.tell(f"waiting   {job.label}: another process is at work on it")
                continue
            if self._may_skip(job):  # the process that had the lock did it
                os.close(lock)
                pending.remove(job)
                summary.there.append(job.id)
                continue
            pending.remove(job)
            self._begin(job, lock)

    def _blocked(self, job: Job, summary: Summary) -> str:
        for other in job.needs:
            if other in summary.failed or other in summary.blocked:
                return f"it evaluates the prompt of a run that failed ({self.plan.by_id[other].label})"
        return ""

    def _begin(self, job: Job, lock: int) -> None:
        attempt = self._attempts[job.id] = self._attempts.get(job.id, 0) + 1
        self._write(job, "running", attempt, 0.0, "")
        words, log_file = tuple(self.start(job)), self._path(job, "log")
        self._running.add(job.id)
        self.backend.begin(ProcessSpec(job.id, words, log_file, self.places.repository, self.backend.environment), lock)
        self.tell(f"started   {job.label} ({job.id})" + (f", attempt {attempt}" if attempt > 1 else ""))

    def _collect(self, summary: Summary, pending: list[Job]) -> None:
        for end in self.backend.ended():
            job, attempt = self.plan.by_id[end.id], self._attempts[end.id]
            self._running.remove(job.id)
            problems = run_folder.problems(self.places.folder(job)) if end.status == 0 else []
            if end.status == 0 and not problems:
                summary.done.append(job.id)
                self._write(job, "done", attempt, end.seconds, "")
                self.tell(f"done      {job.label} ({end.seconds:.0f} s)")
                continue
            why = end.why or (problems[0] if problems else self._reason(job, end.status))
            if attempt <= self.retries and end.status != USERS_MISTAKE:
                pending.insert(0, job)
                self.tell(f"again     {job.label}: {why}")
                continue
            summary.failed[job.id] = why
            self._write(job, "failed", attempt, end.seconds, why)
            self.tell(f"FAILED    {job.label}: {why}; log: {self._path(job, 'log')}")

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
