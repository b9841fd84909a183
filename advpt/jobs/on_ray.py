"""Run a plan's processes on a Ray cluster: each is a task with its cores and its part of a GPU.

When a machine is lost Ray gives its tasks to others; a process ends with the worker that started it, and the next one
continues its run. Logs, records and banks are in folders that all machines share under the same path.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from advpt.cluster import Cluster, Engine
from advpt.jobs.process import ProcessExit, ProcessSpec, run_to_completion

ROOM_SECONDS = 1.0  # between two looks at how many fit
PASSED_ON = ("PYTHONPATH",)  # of this process's environment, besides ADVPT_...


class RayBackend:
    """Runs processes as Ray tasks; see :class:`advpt.jobs.executor.Backend`.

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
        self.environment: Mapping[str, str] = passed | ours

    def room(self) -> int:
        """How many more processes fit now. One is always asked for, so that a cluster that grows on demand does."""
        if time.monotonic() - self._looked > ROOM_SECONDS:
            self._room, self._looked = max(1, self.cluster.room()), time.monotonic()
        return min(self.most or self._room, self._room) - len(self._running)

    def begin(self, spec: ProcessSpec, lock: int) -> None:
        """Pass a process to Ray. ``lock`` is kept here until it has ended: between machines it has no other owner."""
        self._running[self._task.remote(spec)] = (spec, lock)

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
