"""Processes on this machine, several at a time."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time

import torch

from advpt.errors import ConfigError
from advpt.jobs.process import ProcessExit, ProcessSpec, start

END_SECONDS = 10  # in which a process that is told to end saves its state


class LocalBackend:
    """Runs processes on this machine; see :class:`advpt.jobs.executor.Backend`.

    Args:
        n: processes at a time. gpus: each process gets one GPU, in turn; 0 for none.
    """

    def __init__(self, n: int = 1, gpus: int = 0) -> None:
        self.n, self.gpus = n, gpus
        self._running: dict[int, tuple[ProcessSpec, subprocess.Popen[bytes], float]] = {}  # by slot
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // n))
        self.environment = {**os.environ, "OMP_NUM_THREADS": threads}

    def room(self) -> int:
        return self.n - len(self._running)

    def begin(self, spec: ProcessSpec, lock: int) -> None:
        """Start one. The process holds the lock for as long as it lives, whatever becomes of this one."""
        slot = min(set(range(self.n)) - self._running.keys())
        if self.gpus:
            gpu = {"CUDA_VISIBLE_DEVICES": str(slot % self.gpus)}
            spec = dataclasses.replace(spec, environment={**spec.environment, **gpu})
        self._running[slot] = (spec, start(spec, lock), time.monotonic())
        os.close(lock)

    def ended(self) -> list[ProcessExit]:
        exits = []
        for slot, (spec, process, begun) in list(self._running.items()):
            if (status := process.poll()) is not None:
                del self._running[slot]
                exits.append(ProcessExit(spec.id, status, time.monotonic() - begun))
        return exits

    def end(self) -> None:
        for _, process, _ in self._running.values():
            process.terminate()
        for _, process, _ in self._running.values():
            try:
                process.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def slots_here(jobs: int) -> tuple[int, int]:
    """Processes at a time and GPUs to share among them: ``jobs``, or for 0 one per GPU, else up to two.

    Raises:
        ConfigError: a negative number.
    """
    gpus = torch.cuda.device_count()
    if jobs < 0:
        raise ConfigError(f"--jobs is {jobs}; give a number of runs at a time, or 0 for a choice of ours")
    return jobs or gpus or max(1, min(2, os.cpu_count() or 1)), gpus
