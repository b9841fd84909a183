"""Result records: one JSON file per evaluation, written by one rename.

``result`` holds what must be equal in equal runs; ``observed`` holds time, memory, host and versions.
"""

from __future__ import annotations

import base64
import os
import platform
import re
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advpt.errors import RecordError
from advpt.evaluation.statistics import wilson
from advpt.files import digest, read_json, write_json
from advpt.version import __version__

SCHEMA = 1
FOLDER = "records"
_REQUIRED = ("split", "dataset", "trainer", "seed", "backbone", "clean", "config")


@dataclass(frozen=True)
class Record:
    """One evaluation. ``path`` is where it lies (None before it is written)."""

    result: dict[str, Any]
    observed: dict[str, Any]
    path: Path | None = None

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the result: equal results have one id."""
        return digest(self.result)

    @property
    def name(self) -> str:
        """``test_transfer_pgd40-fkl@16-a0.5`` or ``test_clean``: unique within a run's folder."""
        r = self.result
        parts = [r["split"], r["protocol"] or "clean", r["attack"]["spec"] if r["attack"] else ""]
        parts += ["+".join(r["defenses"])] if r.get("defenses") else []
        parts += [f"first{r['images']['n']}"] if (r.get("images") or {}).get("part") else []
        return re.sub(r"[^A-Za-z0-9@.+_-]+", "-", "_".join(p for p in parts if p))


def accuracy(correct: torch.Tensor) -> dict[str, Any]:
    """Accuracy in percent with n, its 95 % interval, and the packed per-image outcome, of ``correct [n]`` bool."""
    hits, n = int(correct.sum()), len(correct)
    low, high = wilson(hits, n)
    bits = np.packbits(correct.cpu().numpy().astype(np.uint8)).tobytes()
    return {
        "accuracy": 100 * hits / n if n else 0.0,
        "correct": hits,
        "n": n,
        "interval95": [low, high],
        "outcome": base64.b64encode(bits).decode(),
    }


def outcome(part: dict[str, Any]) -> np.ndarray:
    """``[n]`` bool: which images were classified correctly, from what :func:`accuracy` stored."""
    bits = np.frombuffer(base64.b64decode(part["outcome"]), dtype=np.uint8)
    return np.unpackbits(bits)[: part["n"]].astype(bool)


def write(record: Record, run_folder: Path) -> Path:
    """Write a record below its run's folder; an earlier one of the same name is replaced as a whole."""
    path = run_folder / FOLDER / f"{record.name}.json"
    write_json(path, {"schema": SCHEMA, "id": record.id, "result": record.result, "observed": record.observed})
    return path


def read(path: Path) -> Record:
    """A record from its file.

    Raises:
        RecordError: not JSON, another schema, incomplete, or changed after it was written.
    """
    data = read_json(path, RecordError)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise RecordError(f"{path} has record schema {found}; this version reads {SCHEMA}: evaluate the run again")
    result = data.get("result")
    result = result if isinstance(result, dict) else {}
    if missing := [name for name in _REQUIRED if name not in result]:
        raise RecordError(f"{path} is not a complete record: {missing[0]} is missing; evaluate the run again")
    record = Record(result, data.get("observed") or {}, path)
    if data.get("id") != record.id:
        raise RecordError(f"{path} was changed after it was written (its id does not match); evaluate the run again")
    return record


def observe(seconds: float, device: torch.device, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Time, peak memory, host and versions, which may differ between equal runs."""
    memory = {"rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    if device.type == "cuda":
        memory["cuda_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return {
        "finished": round(time.time(), 2),
        "seconds": round(seconds, 2),
        "memory": memory,
        "host": {"machine": platform.machine(), "cores": os.cpu_count(), "device": str(device)},
        "versions": {"advpt": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "revision": revision(),
        **(extra or {}),
    }


def revision() -> str:
    """Git revision of the project's checkout, with ``-dirty`` when files differ; "" outside a checkout."""
    here = Path(__file__).resolve().parents[2]
    try:
        said = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
