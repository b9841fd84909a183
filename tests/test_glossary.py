"""docs/glossary.md: every file and every name that it gives exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in LINES
    if line.startswith("|") and not line.startswith(("| term", "|--"))
]
NAME = re.compile(r"`([A-Za-z_]\w*)`")


def source(place: str) -> str:
    path = ROOT / place.strip("`")
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@pytest.mark.parametrize(("term", "meaning", "place"), ROWS, ids=[row[0] for row in ROWS])
def test_a_term_is_in_its_file(term: str, meaning: str, place: str) -> None:
    text = source(place)
    for name in NAME.findall(meaning):
        assert re.search(rf"\b{name}\b", text), f"{term}: {name} is not in {place}"


def test_terms_stand_once_and_the_page_is_linked() -> None:
    terms = [row[0] for row in ROWS]
    assert len(terms) == len(set(terms)) > 30
    for page in ("docs/README.md", "CONTRIBUTING.md"):
        assert "glossary.md" in (ROOT / page).read_text(encoding="utf-8"), page
