"""The numbers that papers print, shipped beside the code: ``paper/*.csv``.

``advpt_tables.csv`` holds Tables 1 to 4 and the domain shift of Zhang et al. (ECCV 2024), ``advpt_table5_words.csv``
its nearest words, ``tapt_tables.csv`` the comparison of TAPT's authors. Published numbers come without intervals.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("paper")


@dataclass(frozen=True, order=True)
class PaperCell:
    """Where a number stands in the paper. ``table``: 1 to 4 or ``shift``; ``method``: vanilla, AdvPT, linear_probe."""

    table: str
    backbone: str
    dataset: str
    method: str
    defense: str
    attack: str


@dataclass(frozen=True)
class Word:
    """A word of Table 5 and its distance."""

    rank: int
    word: str
    distance: float


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def numbers() -> dict[PaperCell, float]:
    """All accuracies in percent of the paper's Tables 1 to 4 and of its domain shift."""
    return {
        PaperCell(r["table"], r["backbone"], r["dataset"], r["method"], r["defense"], r["attack"]): float(r["accuracy"])
        for r in _rows("advpt_tables.csv")
    }


def number(key: PaperCell | None) -> float | None:
    """The published accuracy in percent, None where the paper has no such cell. Tables ``tapt 1`` and ``tapt 2`` are
    those of TAPT's authors (robust at 1/255, clean)."""
    if key is None:
        return None
    if key.table.startswith("tapt "):
        eps = 0.0 if key.attack == "clean" else 1.0
        return tapt().get((key.table.split()[1], key.backbone, key.dataset, key.method, key.attack, eps))
    return numbers().get(key)


@functools.cache
def words(dataset: str) -> tuple[Word, ...]:
    """Table 5's words for a data set, in the paper's order; empty where it has none. ``N/A`` stands in the paper
    too."""
    return tuple(
        Word(int(r["rank"]), r["word"], float(r["distance"]))
        for r in _rows("advpt_table5_words.csv")
        if r["dataset"] == dataset
    )


@functools.cache
def tapt() -> dict[tuple[str, str, str, str, str, float], float]:
    """TAPT's tables: (table, backbone, dataset, method, attack, eps in 1/255) to accuracy in percent."""
    return {
        (r["table"], r["backbone"], r["dataset"], r["method"], r["attack"], float(r["eps_255"])): float(r["accuracy"])
        for r in _rows("tapt_tables.csv")
    }
