"""The numbers that papers print, shipped beside the code: ``paper/*.csv``. Published numbers come without intervals."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("paper")
# Tables 1 to 4 and the domain shift of Zhang et al. (ECCV 2024); of TAPT's authors Tables 1 (robust at 1/255) and 2
# (clean): the files, and what stands before the names of their tables here.
FILES = {"advpt_tables.csv": "", "tapt_tables.csv": "tapt "}


@dataclass(frozen=True, order=True)
class PaperCell:
    """Where a number stands in a paper. ``table``: 1 to 4, ``shift``, ``tapt 1`` or ``tapt 2``; the others as there."""

    table: str
    backbone: str
    dataset: str
    method: str
    defense: str
    attack: str


@dataclass(frozen=True)
class Word:
    """A word of AdvPT's Table 5 and its distance."""

    rank: int
    word: str
    distance: float


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def numbers() -> dict[PaperCell, float]:
    """All published accuracies in percent."""
    return {
        PaperCell(
            prefix + r["table"], r["backbone"], r["dataset"], r["method"], r.get("defense", "none"), r["attack"]
        ): float(r["accuracy"])
        for name, prefix in FILES.items()
        for r in _rows(name)
    }


def number(key: PaperCell | None) -> float | None:
    """The published accuracy in percent, None where the paper has no such cell."""
    return numbers().get(key) if key is not None else None


@functools.cache
def words(dataset: str) -> tuple[Word, ...]:
    """Table 5's words for a data set, in the paper's order (``N/A`` stands there too); empty where it has none."""
    rows = [r for r in _rows("advpt_table5_words.csv") if r["dataset"] == dataset]
    return tuple(Word(int(r["rank"]), r["word"], float(r["distance"])) for r in rows)
