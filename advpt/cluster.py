"""Engines that run work: this machine (``local``) or a Ray cluster (``ray``), with the resources of a worker.

Ray is an extra; nothing here imports it before it is asked for. The address of a running cluster is in ``RAY_ADDRESS``;
without it a cluster of this machine alone is started, for as long as the process lives.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advpt.errors import ConfigError, first_words

log = logging.getLogger(__name__)

ENGINES = ("local", "ray")
MAX_DEFAULT_CPUS = 8  # of a worker whose cores are automatic
CONNECT_SECONDS = 10  # seconds in which a cluster answers


@dataclass(frozen=True)
class Engine:
    """The engine, and the resources of a worker on Ray.

    Args:
        name: of :data:`ENGINES`.
        cpus: cores of a worker; 0 = automatic (the cluster's cores per GPU, else one).
        gpus: GPUs of a worker, a fraction for a share of one; 0 = automatic (one where the cluster has GPUs).
    """

    name: str = "local"
    cpus: float = 0.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise ConfigError(f"the engine is {self.name!r}; expected one of {', '.join(ENGINES)}")
        if self.cpus < 0 or self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ConfigError(
                f"a worker is to have {self.cpus:g} cores and {self.gpus:g} GPUs; expected 0 or more, GPUs as a part "
                "of one or as a whole number"
            )


def ray_module() -> Any:
    """Ray.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(
            'the engine ray needs Ray, which is not installed: pip install "advpt[ray]" (in a checkout: '
            'pip install -e ".[ray]"), or use --engine local'
        ) from None
    return ray


class Cluster:
    """A connection to Ray, and the size of its workers.

    ``cpus`` and ``gpus`` are of one worker: ``resources`` has them under the names of Ray's options, ``size`` in words;
    ``threads`` is how many it has. ``address``: of the cluster, for other processes.

    Raises:
        ConfigError: Ray is not installed, cannot be reached, or no machine of our own cluster has room for a worker.
    """

    def __init__(self, engine: Engine) -> None:
        self.ray = ray_module()
        given = os.environ.get("RAY_ADDRESS", "")
        if not self.ray.is_initialized():
            self._connect(given)
        total = self.ray.cluster_resources()
        self.address = str(self.ray.get_runtime_context().gcs_address)
        self.gpus = engine.gpus or (1.0 if total.get("GPU") else 0.0)
        per_gpu = total.get("CPU", 1.0) // total["GPU"] if self.gpus and total.get("GPU") else 1.0
        most = math.floor(min(MAX_DEFAULT_CPUS, per_gpu * min(1.0, self.gpus or 1.0)))
        self.cpus = engine.cpus or float(max(1, most))
        self.threads = max(1, int(self.cpus))
        self.resources = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        self.size = f"{self.cpus:g} core(s)" + (f" and {self.gpus:g} GPU" if self.gpus else "")
        if not self.room():
            problem = (
                f"no machine of the Ray cluster has room for a worker of {self.size}; it has "
                f"{total.get('CPU', 0):g} cores and {total.get('GPU', 0):g} GPUs in all"
            )
            if not given:
                raise ConfigError(f"{problem}. Give smaller --cpus-per-worker and --gpus-per-worker")
            log.warning("%s. Waiting for one that joins", problem)

    def _connect(self, address: str) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        sigterm_handler = signal.getsignal(signal.SIGTERM)
        local = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if not address else {}
        try:
            if re.fullmatch(r"[^:/]+:\d+", address):  # Ray itself asks for minutes before it gives up
                host, port = address.split(":")
                socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
            self.ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        except (RuntimeError, ValueError, OSError) as error:
            if "AF_UNIX path" in str(error):
                raise ConfigError(
                    "Ray does not start: its temporary folder has too long a path for a socket "
                    f"({first_words(error)}). Name a short one, for instance RAY_TMPDIR=/tmp"
                ) from error
            where = f"the Ray cluster at RAY_ADDRESS={address} cannot be used" if address else "Ray does not start"
            raise ConfigError(
                f"{where}: {str(error).splitlines()[0]}. Check `ray status` there and that Python and Ray have the "
                "same versions everywhere, or use --engine local"
            ) from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm_handler)  # Ray has replaced it

    def nodes(self) -> dict[str, dict[str, float]]:
        """The connected machines by id, with their total resources."""
        return {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}

    def room(self) -> int:
        """Number of workers that fit on the connected machines, without other work on them."""
        return sum(map(self._fit, self.nodes().values()))

    def _fit(self, machine: Mapping[str, float]) -> int:
        fits = machine.get("CPU", 0.0) / self.cpus
        if self.gpus:  # shares of one GPU lie on one GPU
            gpus = machine.get("GPU", 0.0)
            fits = min(fits, gpus * math.floor(1 / self.gpus + 1e-6) if self.gpus <= 1 else gpus // self.gpus)
        return math.floor(fits + 1e-6)
