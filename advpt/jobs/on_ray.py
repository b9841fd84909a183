"""Run a plan's processes on a Ray cluster: each is a task with its cores and its part of a GPU.

When a machine is lost Ray gives its tasks to others; a process ends with the worker that started it, and the next one
continues its run. Logs, records and banks are in folders that all machines share under the same path.
"""

from __future__ import annotations

import os
import time
from typing import Any

from advpt.cluster import Cluster, Engine
from advpt.jobs.process import ProcessExit, ProcessSpec, run_to_completion

POLL_SECONDS = 1.0  # seconds between looks at how many fit
PASSED_ON = ("PYTHONPATH",)  # of this process's environment, besides ADVPT_...


class RayBackend:
    """Processes as Ray tasks; see :class:`advpt.jobs.local.Backend`.

    Args:
        engine: what each process gets. most: processes at a time, 0 for as many as fit.
    """

    def __init__(self, engine: Engine, most: int = 0) -> None:
        self.cluster, self.most = Cluster(engine), most
        self.ray = self.cluster.ray
        self._task = self.ray.remote(run_to_completion).options(**self.cluster.resources, max_retries=-1)
        self._under_way: dict[Any, tuple[ProcessSpec, int]] = {}
        self._fits, self._looked = 0, 0.0
        own = {k: v for k, v in os.environ.items() if k in PASSED_ON or k.startswith("ADVPT_")}
        threads = str(self.cluster.threads)
        self.environment = own | {"RAY_ADDRESS": self.cluster.address, "OMP_NUM_THREADS": threads}

    def room(self) -> int:
        """How many more processes fit now. One is always asked for, so that a cluster that grows on demand does."""
        if time.monotonic() - self._looked > POLL_SECONDS:
            self._fits, self._looked = max(1, self.cluster.room()), time.monotonic()
        most = min(self.most, self._fits) if self.most else self._fits
        return most - len(self._under_way)

    def begin(self, spec: ProcessSpec, lock: int) -> None:
        """Hand a process to Ray. ``lock`` is held here until it has ended: between machines it has no other owner."""
        self._under_way[self._task.remote(spec)] = (spec, lock)

    def ended(self) -> list[ProcessExit]:
        """Those that ended since the last call."""
        waiting = list(self._under_way)
        found = []
        for answer in self.ray.wait(waiting, num_returns=len(waiting), timeout=0)[0] if waiting else []:
            spec, lock = self._under_way.pop(answer)
            try:
                found.append(self.ray.get(answer))
            except self.ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                found.append(
                    ProcessExit(spec.id, 1, 0.0, f"it could not run on the cluster: {str(cause).splitlines()[0]}")
                )
            os.close(lock)
        return found

    def end(self) -> None:
        """End all that are under way, and those that wait for a machine."""
        for answer, (_, lock) in self._under_way.items():
            self.ray.cancel(answer, force=True)
            os.close(lock)
        self._under_way.clear()
