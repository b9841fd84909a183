"""One job's process, wherever it runs. Light on purpose: a worker of a cluster imports this file alone."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

POLL_SECONDS = 0.1
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux' prctl


@dataclass(frozen=True)
class ProcessSpec:
    """The words of a job's process, the file that its output is added to, where it starts, and its environment."""

    id: str
    words: tuple[str, ...]
    log: Path
    folder: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class ProcessExit:
    """A job's process ended: its exit status (negative: the signal), seconds, and the reason if it is not in the
    log."""

    id: str
    status: int
    seconds: float
    why: str = ""


def start(spec: ProcessSpec, lock: int, *, kill_with_parent: bool = False) -> subprocess.Popen[bytes]:
    """Start the process; it holds the open file ``lock`` for as long as it lives. ``kill_with_parent``: it ends when
    this process does, however that ends (Linux)."""
    os.set_inheritable(lock, True)
    with spec.log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - the words are ours
            list(spec.words),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=spec.folder,
            env=dict(spec.environment),
            pass_fds=(lock,),
            preexec_fn=_end_with_parent if kill_with_parent and sys.platform == "linux" else None,
        )


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(DEATH_SIGNAL, signal.SIGKILL)


def run_to_completion(spec: ProcessSpec) -> ProcessExit:
    """Run a job's process on this machine to its end. A process of the same job that still runs here, because the
    process that started it was lost, is waited for first; the job's own records then say that nothing is left to do."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    spec = replace(spec, environment=inherited | dict(spec.environment))
    with _job_lock(spec) as lock:
        begun = time.monotonic()
        process = start(spec, lock, kill_with_parent=True)
        try:
            status = process.wait()
        finally:
            process.kill()
    return ProcessExit(spec.id, status, time.monotonic() - begun)


@contextlib.contextmanager
def _job_lock(spec: ProcessSpec) -> Iterator[int]:
    """The lock of a job on this machine. Not in the shared folder: there it might outlive a machine that was lost."""
    top = Path(tempfile.gettempdir(), f"advpt-{os.getuid()}")
    top.mkdir(mode=0o700, exist_ok=True)
    path = top / hashlib.sha256(str(spec.log).encode()).hexdigest()[:24]
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
