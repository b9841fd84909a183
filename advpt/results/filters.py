"""What the script of the page (``page.js``) has to know of a long table: the columns of text that its rows are filtered
by, and the number that each text is sorted by. The policy that lets a browser run this script and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.results import render, survival_text
from advpt.results.benchmark import WON
from advpt.results.survival import FilledSurvival
from advpt.results.test_time import PART_HEADS, FilledParts
from advpt.results.values import NO_CELL, FilledTable

SCRIPT = Path(__file__).with_name("page.js")
MIN_ROWS = 8  # fewer are read at once
MAX_TEXTS = 40  # of a column with a filter: the search serves for more
UNFILTERED = ("seeds", WON)
FILTERED_PARTS = ("defense", "part")
FILTERED_SURVIVAL = ("over", "outcome", "by")
NO_NUMBER = ("", "-", NO_CELL, "not run", "failed", "missing", "refused")
NUMBER = re.compile(r"\[?([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=$|\s|,\s|\[|\])")


@dataclass(frozen=True)
class Columns:
    """The columns of text of a long table, those before its numbers.

    Args:
        filtered: by column, whether rows are filtered by it.
        numbers: row by row, the number that each text is sorted by, "" for none.
    """

    filtered: tuple[bool, ...]
    numbers: tuple[tuple[str, ...], ...]


def columns(content: object) -> Columns | None:
    """The columns of text of the table in a section of the page; None where it has no filters: it is short, its rows
    differ in no text, or there are none."""
    if isinstance(content, FilledTable):
        heads, rows = render.row_heads(content)
        filtered = [head for head in heads if head not in UNFILTERED]
    elif isinstance(content, FilledParts):
        heads, rows = [*PART_HEADS], [[*line.cells] for line in content.lines]
        filtered = [*FILTERED_PARTS]
    elif isinstance(content, FilledSurvival):
        heads, rows = [*survival_text.heads(content)], [survival_text.cells(content, row) for row in content.rows]
        for row, line in zip(content.rows, rows):
            line[survival_text.OUTCOME] = row.word  # the page has its notes apart
        filtered = [*FILTERED_SURVIVAL]
    else:
        return None
    if len(rows) < MIN_ROWS:
        return None
    texts = list(zip(*rows))
    numbers = [sort_numbers(column) for column in texts]
    words = [2 <= len(set(column)) <= MAX_TEXTS and not any(values) for column, values in zip(texts, numbers)]
    chosen = tuple(head in filtered and differ for head, differ in zip(heads, words))
    return Columns(chosen, tuple(zip(*numbers))) if any(chosen) else None


def sort_numbers(texts: Sequence[str]) -> list[str]:
    """The number at the beginning of each text of a column, "" for none; all "" where a text is neither a number nor a
    word in the place of one."""
    matches = [NUMBER.match(text) for text in texts]
    if any(match is None and text not in NO_NUMBER for match, text in zip(matches, texts)):
        return [""] * len(texts)
    return [match[1] if match is not None else "" for match in matches]


def policy(script: str) -> str:
    """What a browser may do with the page: show the images inside and run this script ("": none), load nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"'sha256-{digest}'" if script else "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'"
    )
