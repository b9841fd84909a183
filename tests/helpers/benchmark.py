"""A benchmark of hand-made records: runs of one base each, rows of prompts, towers and defenses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from advpt.evaluation import record as records
from advpt.evaluation.record import Record
from advpt.results.exhibit import BenchmarkRow, BenchmarkTable, SurvivalTable, robust
from advpt.results.index import RecordIndex, Run
from advpt.results.survival import FilledSurvival, fill_survival
from advpt.schema import JsonObject
from tests.helpers.records import accuracy

ATTACK, TRANSFER = "pgd20-ce@4", ("pgd20-ce@4", "apgd-ce-t@4")
KNOWING = ("pseudo", "adaptive")


def hits(count: int, n: int, seed: int = 0) -> np.ndarray:
    """``[n]`` bool, ``count`` of them, drawn by ``seed``; 0: the first ones."""
    right = np.arange(n) < count
    return np.random.default_rng(seed).permutation(right) if seed else right


class Made:
    """Runs in ``top``, and the table of their rows.

    Args:
        images, some: of the records. rows: which of the images the second are.
    """

    def __init__(self, top: Path, images: int = 40, some: int = 20, rows: Sequence[int] | None = None) -> None:
        self.top, self.images, self.some = top, images, some
        self.which = list(range(0, images, images // some))[:some] if rows is None else list(rows)
        self.runs: dict[str, Run] = {}
        self.rows: list[BenchmarkRow] = []

    def run(self, name: str, seed: int = 1) -> str:
        self.runs.setdefault(name, Run(name, self.top / name, seed, "done", name))
        return name

    def row(self, tower: str, prompt: str, defense: str, runs: Sequence[str], against: int | None, **more) -> int:
        recorded = more.pop("recorded", "" if defense == "none" else defense)
        self.rows.append(BenchmarkRow(tower, prompt, defense, recorded, tuple(runs), against, **more))
        return len(self.rows) - 1

    def write(
        self, run: str, defense: str, protocol: str, robust_images: np.ndarray, *, attack: str = ATTACK,
        clean: np.ndarray | None = None, trainer: str = "ZeroshotCLIP", digest: str = "",
        rows: Sequence[int] | None = None, parts: Sequence[JsonObject] = (), observed: JsonObject | None = None,
        untouched: float = 0.0, stages: JsonObject | None = None, robust_fields: JsonObject | None = None, **more,
    ) -> Path:  # fmt: skip
        """Write a record; on all images, or on the part that knowing attackers get."""
        n, exact = len(robust_images), robust(attack, protocol).attack
        few = protocol in KNOWING and self.some < self.images
        clean = np.ones(n, bool) if clean is None else clean
        attacked = accuracy(torch.from_numpy(robust_images)) | {"untouched": untouched, "parts": list(parts)}
        result = {
            "split": "test", "dataset": "Digits", "trainer": trainer, "seed": self.runs[run].seed, "config": {},
            "backbone": {"name": "DemoCLIP"}, "clean": accuracy(torch.from_numpy(clean)), "protocol": protocol,
            "images": {"n": n, "digest": digest or f"first {n}", "part": few}, "training": {}, "comparable": True,
            "robust": attacked | {"stages": stages, **(robust_fields or {})},
            "defenses": defense.split("+") if defense else [], "attack": {"spec": exact, "asked": exact},
        }  # fmt: skip
        seen = {"rows": self.which if rows is None and few else list(rows or ())} | (observed or {})
        return records.write(Record.from_json(result | more, seen), self.top / run)

    def table(self) -> BenchmarkTable:
        about = ("benchmark", "Benchmark", "About it.", "DemoCLIP", "Digits", ATTACK, TRANSFER)
        return BenchmarkTable(*about, self.images, self.some, tuple(self.rows))

    def survival(self) -> SurvivalTable:
        return SurvivalTable("survival", "What survives", "About what survives.", self.table())

    def index(self) -> RecordIndex:
        return RecordIndex(self.runs)


def part(name: str, correct: float, n: int, **more) -> JsonObject:
    about = {"name": name, "attack": ATTACK, "n": n, "correct": correct, "accuracy": 100 * correct / n if n else 0.0}
    return about | more


# --- who keeps a gain -----------------------------------------------------------------------------------------------

N, SOME = 100, 50
PLAIN = hits(10, N)


def on_part(made: Made, right: int) -> np.ndarray:
    """``[N]`` with ``right`` of the adaptive images, the last ones of them, and none of the others."""
    every = np.zeros(N, bool)
    every[made.which[SOME - right :]] = True
    return every


def defense(made: Made, name: str, published: np.ndarray, adaptive: np.ndarray, against: int = 0, **more) -> int:
    """A defense on the plain model, and both its records."""
    made.write("clip", name, "static", published, **more)
    made.write("clip", name, "adaptive", adaptive, **more)
    return made.row("CLIP", "hand-written", name, ["clip"], against)


def survivors(top: Path) -> Made:
    """The plain model; ``mean``, which keeps its gain; ``ttc``, whose gain is of the static attack alone; ``weak``,
    which does harm; ``hedge``, which does nothing; and the prompt AdvPT with three seeds."""
    made = Made(top, N, SOME)
    made.run("clip")
    made.row("CLIP", "hand-written", "none", ["clip"], None)
    for protocol, right in (("transfer", PLAIN), ("static", PLAIN), ("adaptive", hits(15, SOME))):
        made.write("clip", "", protocol, right)
    defense(made, "mean", on_part(made, 30), hits(35, SOME))
    defense(made, "ttc", on_part(made, 40), hits(13, SOME))
    defense(made, "weak", on_part(made, 20), hits(3, SOME))
    defense(made, "hedge", PLAIN, hits(15, SOME))
    for seed in (1, 2, 3):
        run = made.run(f"advpt{seed}", seed)
        made.write(run, "", "transfer", hits(60, N, seed), trainer="AdvPT")
        made.write(run, "", "adaptive", hits(12 + seed, SOME), trainer="AdvPT")
    made.row("CLIP", "AdvPT", "none", ["advpt1", "advpt2", "advpt3"], 0, authors="transfer")
    return made


def survival(made: Made) -> FilledSurvival:
    return fill_survival(made.survival(), made.index())


def nothing_run(made: Made) -> FilledSurvival:
    """Before any of it was run."""
    gone = {n: dataclasses.replace(run, state="not run", folder=made.top / "x") for n, run in made.runs.items()}
    return fill_survival(made.survival(), RecordIndex(gone))
