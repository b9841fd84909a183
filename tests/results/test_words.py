"""Nearest words of learned vectors in a report."""

from __future__ import annotations

import csv

from advpt.results.exhibit import (
    WordColumn,
    WordTable,
)
from tests.helpers.reports import NASTY, put


def test_words_stand_beside_the_papers_and_the_untrained_ones(small):
    near = {
        "per_vector": [[["cat", 0.5], ["dog", 0.6]], [[NASTY, 0.7], ["a", 0.8]]],
        "overall": [["cat", 0.5], [NASTY, 0.7]],
    }
    before = {"per_vector": [[["x", 0.1], ["y", 0.2]], [["z", 0.1], ["w", 0.2]]], "overall": [["x", 0.1], ["z", 0.1]]}
    put(small.top / "adv1", 81, 51, words={"trained": near, "untrained": before})
    columns = (WordColumn("Pets", "ViT-B/16", "adv1"), WordColumn("DTD", "ViT-B/16", "adv2"))
    small.report(WordTable("table5", "Table 5", "c", columns))
    with (small.top / "report" / "tables" / "table5.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = rows[0]
    assert (first["word"], first["untrained_word"], first["paper_word"], first["paper_distance"]) == (
        "cat",
        "x",
        "stores",
        "0.63",
    )
    assert [r["vector"] for r in rows if r["reading"] == "per vector"] == ["1", "1", "2", "2"]
    page = (small.top / "report" / "index.html").read_text()
    assert "<script" not in page and "DTD, ViT-B/16" in page and "missing" in page
    assert "DTD, ViT-B/16: missing" in (small.top / "report" / "tables" / "table5.md").read_text()
