"""The papers' numbers as data: they parse, and are those that the papers print."""

from __future__ import annotations

from collections import Counter

from advpt.results.published import FILES, FOLDER, PaperCell, number, numbers, words


def test_every_number_is_a_percentage_under_a_key_of_its_own():
    tables = {"1": 96, "2": 96, "3": 64, "4": 28, "shift": 32, "tapt 1": 504, "tapt 2": 72}
    assert Counter(key.table for key in numbers()) == tables and all(0 <= v <= 100 for v in numbers().values())
    read = [row for name in FILES for row in (FOLDER / name).read_text().splitlines()[1:]]
    assert len(numbers()) == len(read) == 316 + 576, "no two numbers have one key"


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
