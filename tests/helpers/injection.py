"""Processes to be killed, and how often: forked after the imports, so that start-up costs nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import train
from advpt.jobs.process import ProcessSpec

SCALE = float(os.environ.get("ADVPT_FAULTS", "0.1"))
at_full_length = pytest.mark.skipif(SCALE < 0.5, reason="make faults runs it")  # a variant of what the short run has


def times(full: int) -> int:
    """How often something is done in this run, where ``make faults`` does it ``full`` times."""
    return max(1, round(full * SCALE))


def forked(work: Callable[[], object], log: Path | None = None) -> int:
    """The id of a child process that does ``work``: its exit status is what ``work`` returns (None: 0), 99 for an
    exception. What it prints goes to ``log``."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        os.setpgid(0, 0)
        out = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115, PTH123 - pytest's own stand-ins stay with the parent
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115, PTH123
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        status = int(work() or 0)  # type: ignore[call-overload]
    except BaseException:  # noqa: BLE001 - a fork must not return into pytest
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def outcome(pid: int) -> int:
    """The exit status of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Forked:
    """``work`` in the place of a job's process: the imports are there already."""

    def __init__(self, work: Callable[[], object], log: Path) -> None:
        self.pid, self.status = forked(work, log), None

    def poll(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self, timeout: float = 10.0) -> int | None:
        while self.poll() is None:
            time.sleep(0.01)
        return self.status

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    kill = terminate


def run(work: Callable[[], object], log: Path | None = None) -> int:
    """``work`` in a child of its own, to the end."""
    return outcome(forked(work, log))


@dataclass
class Count:
    """What became of the kills: how many, after how many of them the work was later finished, and wrong endings."""

    injected: int = 0
    rounds: int = 0
    wrong: int = 0
    why: list[str] = field(default_factory=list)


def kill_at_random(
    top: Path,
    work: Callable[[Path], object],
    sound: Callable[[Path], str],
    *,
    kills: int,
    longest: float,
    seed: int = 0,
    number: int = signal.SIGKILL,
    ends: tuple[int, ...] = (-signal.SIGKILL,),
) -> Count:
    """Start ``work(folder)`` again and again, each time signalled after at most ``longest`` seconds, until it ends by
    itself; then look with ``sound`` (a sentence for what is wrong) and begin anew in another folder, until there were
    so many kills. A signal counts when the process ended with one of ``ends``."""
    rng, count = random.Random(seed), Count()
    while count.injected < kills:
        folder, log = top / f"round{count.rounds}", top / f"round{count.rounds}.log"
        top.mkdir(parents=True, exist_ok=True)
        count.rounds += 1
        while True:
            pid = forked(lambda folder=folder: work(folder), log)
            if count.injected < kills:
                time.sleep(rng.uniform(0, longest))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            status = outcome(pid)
            if status in ends and status != 0:
                count.injected += 1
                continue
            break
        said = sound(folder) if status == 0 else f"status {status}: {log.read_text()[-2000:]}"
        if said:
            count.wrong += 1
            count.why.append(said)
    return count


def alive(pid: int) -> bool:
    """Whether a process runs (one that ended and was not waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def noting_start(top: Path) -> Callable[[ProcessSpec, int], Forked]:
    """In the place of :func:`advpt.jobs.backends.start`: runs of ``train.py`` in forks, whose ids are in ``pids``."""

    def start(spec: ProcessSpec, lock: int) -> Forked:
        started = Forked(lambda: train.main(list(spec.words)), spec.log)
        with (top / "pids").open("a") as file:
            file.write(f"{started.pid}\n")
        return started

    return start


def kill_plans(
    folder: Path, work: Callable[[Path], object], sound: Callable[[Path], str], *, kills: int, longest: float
) -> Count:
    """As :func:`kill_at_random` for ``work`` that executes a plan by :func:`noting_start`: killed are the executor, one
    of its runs, or all of them."""
    rng, count, log = random.Random(0), Count(), folder / "log"
    while count.injected < kills:
        top = folder / f"plan{count.rounds}"
        count.rounds += 1
        executor = forked(lambda top=top: work(top), log)
        while True:
            if count.injected < kills:
                time.sleep(rng.uniform(0, longest))
                notes = (top / "pids").read_text().split() if (top / "pids").is_file() else []
                at_work = [pid for pid in map(int, notes) if alive(pid)]
                for pid in rng.choice(([executor], at_work[:1], [executor, *at_work])):
                    if alive(pid):
                        os.kill(pid, signal.SIGKILL)
                        count.injected += 1
                if alive(executor):
                    continue
            status = outcome(executor)
            if status == -signal.SIGKILL:
                executor = forked(lambda top=top: work(top), log)
                continue
            break
        said = sound(top) if status == 0 else f"status {status}: {log.read_text()[-1500:]}"
        if said:
            count.wrong += 1
            count.why.append(f"{top}: {said}")
    return count


def content(top: Path, *patterns: str) -> dict[str, bytes]:
    """The bytes of the files below a folder that match."""
    found = {path for pattern in patterns or ("**/*",) for path in top.glob(pattern) if path.is_file()}
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in sorted(found)}
