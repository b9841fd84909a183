"""Few-shot subsets exactly as CoOp draws them, and the lists that record them.

The subset is decided by the split and the seed alone: sampling uses a generator made for it, so nothing that
draws from Python's global generator can change it. Lists are JSON with relative paths; upstream's pickles are
ignored.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from advpt import files
from advpt.data.split import Row, Split

FORMAT = 1
VAL_SHOTS = 4  # validation gets min(k, 4) shots, as in CoOp


def sample(rows: Sequence[Row], shots: int, generator: random.Random) -> list[Row]:
    """``shots`` rows of every class, classes in order of first appearance; small classes are taken whole."""
    by_label: dict[int, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row[1], []).append(row)
    chosen: list[Row] = []
    for members in by_label.values():
        chosen.extend(generator.sample(members, shots) if len(members) >= shots else members)
    return chosen


def select(split: Split, shots: int, seed: int) -> Split:
    """The subset CoOp gets for this split, number of shots and seed; a negative seed draws anew each time. Test is
    whole."""
    generator = random.Random(seed) if seed >= 0 else random.Random()
    train = sample(split.train, shots, generator)
    val = sample(split.val, min(shots, VAL_SHOTS), generator)
    return Split(tuple(train), tuple(val), split.test)


def list_path(folder: Path, shots: int, seed: int) -> Path:
    """Where the list is kept: ``<data set folder>/split_fewshot/shot_<k>-seed_<s>.json``."""
    return folder / "split_fewshot" / f"shot_{shots}-seed_{seed}.json"


def record(subset: Split, path: Path, *, split_digest: str, shots: int, seed: int) -> str:
    """Write the list unless the right one is there; returns what is wrong with an old one, or "".

    Raises:
        OSError: if the folder cannot be written.
    """
    wanted = {
        "format": FORMAT,
        "split_sha256": split_digest,
        "shots": shots,
        "seed": seed,
        "train": [row[0] for row in subset.train],
        "val": [row[0] for row in subset.val],
    }
    there = path.is_file()
    trouble = difference(path.read_bytes(), wanted) if there else ""
    if trouble or not there:
        files.write_text(path, json.dumps(wanted, indent=1) + "\n")
    return trouble


def difference(data: bytes, wanted: Mapping[str, object]) -> str:
    """What is wrong with the bytes of a list file, as half a sentence; "" where it has what is wanted."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return "it is not valid JSON"
    if not isinstance(content, dict):
        return "it is not a few-shot list"
    for key, value in wanted.items():
        if content.get(key) != value:
            if isinstance(value, list):
                return f"its {key!r} list is not what the split and the seed give"
            return f"its {key} is {content.get(key)!r}, this run has {value!r}"
    return ""
