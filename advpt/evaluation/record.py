"""Result records: one JSON file per evaluation, written by one rename.

``result`` holds what must be equal in equal runs; ``observed`` holds time, memory, host and versions.
"""

from __future__ import annotations

import base64
import math
import os
import platform
import re
import resource
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advpt.errors import RecordError, shown
from advpt.evaluation.statistics import Runs, wilson
from advpt.files import digest, read_json, write_json
from advpt.version import __version__

SCHEMA = 1
FOLDER = "records"
UNTRAINED = ("ZeroshotCLIP",)  # of records that do not say whether their method was trained
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


def is_trained(result: Mapping[str, Any]) -> bool:
    """Whether a record's method was trained, so that another seed would give another outcome: what ``trained`` says,
    or, where the record lacks it, every method but zero-shot CLIP."""
    return bool(result.get("trained", result["trainer"] not in UNTRAINED))


def runs(parts: Mapping[int, Mapping[str, Any]], trained: bool) -> Runs:
    """Clean or robust parts of the records of one method, by seed, as :mod:`advpt.evaluation.statistics` takes them.

    Their outcomes are left out where one lacks them or the runs have unequal numbers of images.
    """
    sizes = {int(part["n"]) for part in parts.values()}
    complete = len(sizes) == 1 and all("outcome" in part for part in parts.values())
    correct = {seed: outcome(dict(part)) for seed, part in parts.items()} if complete else {}
    return Runs({seed: float(part["accuracy"]) for seed, part in parts.items()}, correct, min(sizes), trained)


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
    if problem := _problem(result):
        raise RecordError(f"{path} is not a sound record: {problem}; evaluate the run again")
    observed = data.get("observed")
    record = Record(result, observed if isinstance(observed, dict) else {}, path)
    if data.get("id") != record.id:
        raise RecordError(f"{path} was changed after it was written (its id does not match); evaluate the run again")
    return record


def _is(value: Any, *kinds: type) -> bool:
    """Whether a JSON value is of these kinds; True and False are no numbers, and NaN and infinity are none either."""
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) and not (isinstance(value, float) and not math.isfinite(value))


# Fields that tables and reports read, where a record has them: their kinds, and how a message calls these.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "split": ((str,), "a text"),
    "dataset": ((str,), "a text"),
    "trainer": ((str,), "a text"),
    "seed": ((int,), "a whole number"),
    "backbone": ((dict,), "an object"),
    "config": ((dict,), "an object"),
    "clean": ((dict,), "an object"),
    "robust": ((dict, type(None)), "an object or null"),
    "attack": ((dict, type(None)), "an object or null"),
    "protocol": ((str, type(None)), "a text or null"),
    "images": ((dict,), "an object"),
    "defenses": ((list, type(None)), "a list"),
    "warnings": ((list,), "a list of texts"),
    "training": ((dict,), "an object"),
    "trained": ((bool,), "true or false"),
    "comparable": ((bool, type(None)), "true, false or null"),
}


def _problem(result: dict[str, Any]) -> str:
    """What is wrong with the form of a result: the field, what was found, what was expected; "" for a sound one."""
    for name, (kinds, called) in _KINDS.items():
        if name in result and not _is(result[name], *kinds):
            return f"{name} is {shown(result[name])}, expected {called}"
    images = result.get("images", {})
    for name, kind in (("digest", str), ("n", int), ("part", bool)):
        if not _is(images.get(name, kind()), kind):
            return f"images.{name} is {shown(images[name])}, expected {kind.__name__}"
    for name in ("warnings", "defenses"):
        if bad := [x for x in result.get(name) or [] if not isinstance(x, str)]:
            return f"{name} holds {shown(bad[0])}, expected texts"
    attack, robust = result.get("attack"), result.get("robust")
    if (robust is None) != (attack is None):
        return f"attack is {shown(attack)} and robust {shown(robust)}, expected both or neither"
    if attack is not None and not (_is(attack.get("spec"), str) and _is(attack.get("asked", ""), str)):
        return f"attack.spec is {shown(attack.get('spec'))}, expected a text"
    if attack is not None and not _is(result.get("protocol"), str):
        return f"protocol is {shown(result.get('protocol'))}, expected a text beside an attack"
    if not _is(result["backbone"].get("name"), str):
        return f"backbone.name is {shown(result['backbone'].get('name'))}, expected a text"
    for name, part in (("clean", result["clean"]), ("robust", robust), *_on_perturbed(robust)):
        if part is not None and (problem := _part_problem(part, outcome_too=name != "robust.on_perturbed")):
            return f"{name}.{problem}"
    return ""


def _on_perturbed(robust: dict[str, Any] | None) -> list[tuple[str, Any]]:
    if robust is None or "on_perturbed" not in robust:
        return []
    part = robust["on_perturbed"]
    return [("robust.on_perturbed", part if isinstance(part, dict) else {})]


def _part_problem(part: dict[str, Any], outcome_too: bool) -> str:
    for name in ("accuracy", "untouched", "deviation", "lost"):
        value = part.get(name, 0.0)
        if (name == "accuracy" and name not in part) or not _is(value, int, float) or not 0 <= value <= 100:
            return f"{name} is {shown(part.get(name))}, expected a number from 0 to 100"
    for name in ("n", "correct"):
        if not _is(part.get(name), int) or part[name] < 0:
            return f"{name} is {shown(part.get(name))}, expected a whole number from 0"
    interval = part.get("interval95")
    if not isinstance(interval, list) or len(interval) != 2 or not all(_is(x, int, float) for x in interval):
        return f"interval95 is {shown(interval)}, expected two numbers"
    if outcome_too:
        try:
            bits = len(base64.b64decode(part["outcome"], validate=True))
        except (KeyError, TypeError, ValueError):
            bits = -1
        if bits != (part["n"] + 7) // 8:
            return f"outcome is {shown(part.get('outcome'))}, expected one bit for each of {part['n']} images"
    return ""


def observe(seconds: float, device: torch.device, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """Time, peak memory, host and versions, which may differ between equal runs."""
    memory = {"rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    if device.type == "cuda":
        memory["cuda_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return {
        "finished": round(time.time(), 2),
        "seconds": round(seconds, 2),
        "memory": memory,
        "host": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "device": str(device),
            "threads": torch.get_num_threads(),  # with machine and versions: what the bits depend on
        },
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
