"""Records as JSON values, for tests of what stands in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from advpt.evaluation import record as records
from advpt.evaluation.record import Accuracy, Record, RunFacts
from advpt.schema import JsonObject, from_json, to_json

FACTS = RunFacts(dataset="Tiny", trainer="AdvPT", seed=1, config={})


def accuracy(correct: Tensor) -> JsonObject:
    """The part of a record for ``correct [n]`` bool."""
    return to_json(Accuracy.of(correct))


def outcome(part: JsonObject) -> np.ndarray:
    """``[n]`` bool: the images of a record's part that were classified correctly."""
    return from_json(Accuracy, part).outcomes()


def write_defended(
    folder: Path, name: str, protocol: str, clean: Tensor, robust: Tensor, *, parts: Sequence[JsonObject] = (),
    flags: Sequence[str] = (), cost: JsonObject | None = None, milliseconds: float | None = None,
    attack: str = "pgd20-ce@2/a0.25",
) -> Path:  # fmt: skip
    """Write the record of a defense at test time, ``name`` as records have it, "" for none. ``clean``, ``robust``:
    which images are right, ``[n]`` bool."""
    result = {
        "split": "test", "dataset": "Digits", "trainer": "ZeroshotCLIP", "seed": 1, "backbone": {"name": "DemoCLIP"},
        "images": {"n": len(clean), "digest": f"first {len(clean)}"}, "clean": accuracy(clean), "config": {},
        "robust": accuracy(robust) | {"untouched": 0.0, "parts": list(parts)}, "protocol": protocol,
        "defenses": name.split("+") if name else [], "attack": {"spec": attack, "asked": attack}, "training": {},
        "comparable": True, "flags": list(flags), "cost": cost,
    }  # fmt: skip
    observed = {"milliseconds": milliseconds} if milliseconds is not None else {}
    return records.write(Record.from_json(result, observed), folder)
