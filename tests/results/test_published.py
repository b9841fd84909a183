"""The papers' numbers as data: they parse, and are those that the papers print."""

from __future__ import annotations

from collections import Counter

from advpt.results.published import PaperCell, number, numbers, tapt, words


def test_every_number_is_a_percentage_under_a_key_of_its_own():
    assert len(numbers()) == 316 and all(0 <= v <= 100 for v in numbers().values())
    assert Counter(key.table for key in numbers()) == {"1": 96, "2": 96, "3": 64, "4": 28, "shift": 32}
    assert len(tapt()) == 576 and all(0 <= v <= 100 for v in tapt().values())


def test_numbers_are_found_by_their_place():
    assert number(PaperCell("1", "ViT-B/16", "Flowers", "vanilla", "none", "clean")) == 71.4
    assert number(PaperCell("1", "ViT-B/16", "Pets", "vanilla", "none", "pgd40")) == 24.4
    assert number(PaperCell("1", "ViT-B/16", "Digits", "vanilla", "none", "clean")) is None and number(None) is None


def test_words_are_in_the_papers_order_and_n_a_is_a_word():
    pets = words("Pets")
    assert [w.word for w in pets] == ["stores", "sun", "amore", "favorites", "ama"]
    assert [w.rank for w in pets] == [1, 2, 3, 4, 5] and pets[0].distance == 0.63
    assert words("UCF101")[3].word == "N/A" and words("Digits") == ()
