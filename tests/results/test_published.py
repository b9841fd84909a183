"""The papers' numbers as data: they parse, and are those that the papers print."""

from __future__ import annotations

import csv
from collections import Counter

from advpt.results.published import (
    FILES,
    FOLDER,
    TEST_TIME,
    TEST_TIME_FILE,
    PaperCell,
    defense_cell,
    number,
    numbers,
    words,
)


def test_every_number_is_a_percentage_under_a_key_of_its_own():
    tables = {"1": 96, "2": 96, "3": 64, "4": 28, "shift": 32, "tapt 1": 504, "tapt 2": 72}
    read = [row for name in FILES for row in (FOLDER / name).read_text().splitlines()[1:]]
    others = [key for key in numbers() if not key.table.startswith(TEST_TIME)]
    assert Counter(key.table for key in others) == tables and all(0 <= v <= 100 for v in numbers().values())
    assert len(others) == len(read) == 316 + 576, "no two numbers have one key"


def test_defenses_at_test_time_have_a_clean_and_a_robust_number_of_each_source_and_no_doubtful_one():
    with (FOLDER / TEST_TIME_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sound = [row for row in rows if "doubtful" not in row["note"]]
    assert (len(rows), len(sound)) == (2080, 1897)
    clean = {(r["source"], r["base_weights"], r["backbone"], r["dataset"], r["method"]) for r in sound if r["clean"]}
    ours = [key for key in numbers() if key.table.startswith(TEST_TIME)]
    assert len(ours) == len(sound) + len(clean), "no two robust numbers have one key"
    about = ("T-VSS, 2026 table 1", "ViT-B/16", "Flowers", "R-TPT")  # which calls it Flower102
    assert number(defense_cell(*about, "PGD-100, step eps/4", "4")) == 44.6
    assert number(defense_cell(*about, "PGD-10", "4")) is number(defense_cell(*about, "PGD-100", "4")) is None
    doubtful = next(row for row in rows if "doubtful" in row["note"] and row["base_weights"] == "OpenAI")
    cell = defense_cell(*(doubtful[k] for k in ("source", "backbone", "dataset", "method", "attack", "eps_255")))
    assert number(cell) is None


def test_numbers_are_found_by_their_place():
    assert number(PaperCell("1", "ViT-B/16", "Flowers", "vanilla", "none", "clean")) == 71.4
    assert number(PaperCell("1", "ViT-B/16", "Pets", "vanilla", "none", "pgd40")) == 24.4
    assert number(PaperCell("1", "ViT-B/16", "Digits", "vanilla", "none", "clean")) is None and number(None) is None
    assert number(PaperCell("tapt 1", "ViT-B/16", "ImageNet", "Vanilla", "none", "pgd")) == 1.4


def test_words_are_in_the_papers_order_and_n_a_is_a_word():
    pets = words("Pets")
    assert [w.word for w in pets] == ["stores", "sun", "amore", "favorites", "ama"]
    assert [w.rank for w in pets] == [1, 2, 3, 4, 5] and pets[0].distance == 0.63
    assert words("UCF101")[3].word == "N/A" and words("Digits") == ()
