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
# Defenses at test time: one line per clean and robust number of a source.
TEST_TIME_FILE, TEST_TIME = "test_time_tables.csv", "test_time "
UNAWARE = "plain CLIP, true label"  # the attacker of ``static`` on weights that are OpenAI's
DOUBTFUL = "doubtful"  # in the notes of that file: such lines are not used
# Where sources call a data set something else than AdvPT's paper.
DATASETS = {
    "Flower102": "Flowers",
    "Flowers102": "Flowers",
    "OxfordPets": "Pets",
    "FGVCAircraft": "Aircraft",
    "StanfordCars": "Cars",
    "ImageNet-V2": "ImageNetV2",
    "ImageNet-Sketch": "ImageNetSketch",
    "ImageNet-A": "ImageNetA",
    "ImageNet-R": "ImageNetR",
}


@dataclass(frozen=True, order=True)
class PaperCell:
    """Where a number stands in a paper. ``table``: 1 to 4, ``shift``, ``tapt 1`` or ``tapt 2``, or of defenses at test
    time as :func:`defense_cell` has it; the others as there."""

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


def defense_cell(source: str, backbone: str, dataset: str, method: str, attack: str = "", eps: str = "") -> PaperCell:
    """Where a number of a defense at test time stands.

    Args:
        source: paper and table. backbone: with other weights than OpenAI's behind a comma.
        method: as the source has it.
        attack: with its steps, as the source has it, and ``eps`` in 1/255; both "" without an attack.
    """
    return PaperCell(TEST_TIME + source, backbone, dataset, method, "none", f"{attack}@{eps}" if attack else "clean")


def _test_time_numbers() -> dict[PaperCell, float]:
    made: dict[PaperCell, float] = {}
    for r in _rows(TEST_TIME_FILE):
        if DOUBTFUL in r["note"]:
            continue
        backbone = r["backbone"] + ("" if r["base_weights"] == "OpenAI" else f", {r['base_weights']}")
        about = (r["source"], backbone, DATASETS.get(r["dataset"], r["dataset"]), r["method"])
        # Rows of one source differ in the attacker, too, where one of them knows the defense.
        knows = "" if r["attacker"] == UNAWARE else f", {r['attacker']}"
        if r["clean"]:
            made[defense_cell(*about)] = float(r["clean"])
        made[defense_cell(*about, r["attack"] + knows, r["eps_255"])] = float(r["robust"])
    return made


@functools.cache
def numbers() -> dict[PaperCell, float]:
    """All published accuracies in percent."""
    return _test_time_numbers() | {
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
