"""Where the processes of a plan run: on this machine, or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from advpt.cluster import Cluster, Engine
from advpt.errors import ConfigError
from advpt.jobs.process import ProcessExit, ProcessSpec, run_to_completion, start

END_SECONDS = 10  # in which a process that is told to end saves its state
ROOM_SECONDS = 1.0  # between two looks at how many fit on a cluster
PASSED_ON = ("PYTHONPATH",)  # to a cluster, of this process's environment, besides ADVPT_...


class Backend(ABC):
    """Runs processes. ``environment``: of every process."""

    environment: Mapping[str, str]

    @abstractmethod
    def room(self) -> int:
        """How many more processes may begin now."""

    @abstractmethod
    def begin(self, spec: ProcessSpec, lock: int) -> None:
        """Begin one; from now on the open file ``lock`` belongs to the backend."""

    @abstractmethod
    def ended(self) -> list[ProcessExit]:
        """Those that ended since the last call."""

    @abstractmethod
    def end(self) -> None:
        """End all that run."""


class LocalBackend(Backend):
    """Runs processes on this machine, several at a time.

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
        slot = min(set(range(self.n)) - self._running.keys())
        if self.gpus:
            gpu = {"CUDA_VISIBLE_DEVICES": str(slot % self.gpus)}
            spec = dataclasses.replace(spec, environment={**spec.environment, **gpu})
        self._running[slot] = (spec, start(spec, lock), time.monotonic())
        os.close(lock)  # the process holds it for as long as it lives, whatever becomes of this one

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


class RayBackend(Backend):
    """Runs processes as Ray tasks, each with its cores and its part of a GPU.

    When a machine is lost Ray gives its tasks to others; a process ends with the worker that started it, and the next
    one continues its run. Logs, records and banks are in folders that all machines share under the same path.

    Args:
        engine: what each process gets. most: processes at a time, 0 for as many as fit.
    """

    def __init__(self, engine: Engine, most: int = 0) -> None:
        self.cluster, self.most = Cluster(engine), most
        self.ray = self.cluster.ray
        self._task = self.ray.remote(run_to_completion).options(**self.cluster.resources, max_retries=-1)
        self._running: dict[Any, tuple[ProcessSpec, int]] = {}  # by Ray's reference
        self._room, self._looked = 0, 0.0
        passed = {k: v for k, v in os.environ.items() if k in PASSED_ON or k.startswith("ADVPT_")}
        ours = {"RAY_ADDRESS": self.cluster.address, "OMP_NUM_THREADS": str(self.cluster.threads)}
        self.environment = passed | ours

    def room(self) -> int:
        if time.monotonic() - self._looked > ROOM_SECONDS:
            # one is always asked for, so that a cluster that grows on demand does
            self._room, self._looked = max(1, self.cluster.room()), time.monotonic()
        return min(self.most or self._room, self._room) - len(self._running)

    def begin(self, spec: ProcessSpec, lock: int) -> None:
        self._running[self._task.remote(spec)] = (spec, lock)  # between machines the lock has no other owner

    def ended(self) -> list[ProcessExit]:
        references, exits = list(self._running), []
        ready = self.ray.wait(references, num_returns=len(references), timeout=0)[0] if references else []
        for reference in ready:
            spec, lock = self._running.pop(reference)
            try:
                exits.append(self.ray.get(reference))
            except self.ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                why = f"it could not run on the cluster: {str(cause).splitlines()[0]}"
                exits.append(ProcessExit(spec.id, 1, 0.0, why))
            os.close(lock)
        return exits

    def end(self) -> None:
        for reference, (_, lock) in self._running.items():
            self.ray.cancel(reference, force=True)
            os.close(lock)
        self._running.clear()
