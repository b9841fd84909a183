"""Nearest words of learned vectors, beside those before tuning and the paper's."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from advpt.results.exhibit import WordTable
from advpt.results.index import RecordIndex
from advpt.results.published import words as published_words
from advpt.results.render import grid, to_csv
from advpt.results.values import NO_CELL

WORD_HEADS = ("data set", "backbone", "rank", "word", "distance", "untrained", "distance", "paper's word", "distance")
VECTOR_HEADS = ("data set", "backbone", "vector", "nearest word", "distance", "before tuning", "distance")

Shown = tuple[str, float | str]  # a word and its distance, or what stands in their place
EMPTY: Shown = ("", "")


@dataclass(frozen=True)
class WordLine:
    """A nearest word, as a line of the CSV. ``reading``: ``overall`` or ``per vector``; ``vector``: from 1."""

    dataset: str
    backbone: str
    reading: str
    vector: int | str
    rank: int
    word: str
    distance: float
    untrained_word: str
    untrained_distance: float | str
    paper_word: str
    paper_distance: float | str
    record: str


@dataclass(frozen=True)
class FilledWords:
    """The nearest words of a table; ``absent``: by data set and backbone, the word for why there are none."""

    table: WordTable
    lines: list[WordLine]
    absent: dict[str, str]

    @property
    def overall(self) -> list[WordLine]:
        """The nearest words of all vectors."""
        return [line for line in self.lines if line.reading == "overall"]

    @property
    def nearest(self) -> list[WordLine]:
        """The nearest word of each vector."""
        return [line for line in self.lines if line.reading == "per vector" and line.rank == 1]

    def text(self) -> str:
        """As Markdown: the nearest of all, and for every vector its nearest word; all others are in the CSV."""
        overall = [[x.dataset, x.backbone, *astuple(x)[4:11]] for x in self.overall]
        nearest = [[x.dataset, x.backbone, x.vector, *astuple(x)[5:9]] for x in self.nearest]
        absent = "".join(f"\n{name}: {state}" for name, state in self.absent.items())
        return (
            f"{self.table.title}. {self.table.caption}\n\n{grid(WORD_HEADS, overall)}\n{absent}\n\n"
            f"The nearest word of each vector:\n\n{grid(VECTOR_HEADS, nearest)}\n"
        )

    def comma_separated(self) -> str:
        return to_csv([field.name for field in fields(WordLine)], [astuple(line) for line in self.lines])


def fill_words(table: WordTable, index: RecordIndex) -> FilledWords:
    """The nearest words of every run of a table."""
    filled = FilledWords(table, [], {})
    for column in table.columns:
        record, state = index.first(column.run, lambda r: r.result.words is not None, "record with nearest words")
        if record is None or record.result.words is None:
            filled.absent[f"{column.dataset}, {column.backbone}"] = state
            continue
        trained, untrained = record.result.words.trained, record.result.words.untrained
        published: dict[int, Shown] = {
            word.rank: (word.word, word.distance) for word in published_words(column.dataset)
        }
        readings = [("overall", "", trained.overall, untrained.overall)]
        per_vector = zip(trained.per_vector, untrained.per_vector)
        readings += [("per vector", str(n), near, before) for n, (near, before) in enumerate(per_vector, start=1)]
        for reading, vector, near, before in readings:
            old: dict[int, Shown] = dict(enumerate(before, start=1))
            for rank, word in enumerate(near, start=1):
                paper = published.get(rank, (NO_CELL, NO_CELL)) if reading == "overall" else EMPTY
                where = (column.dataset, column.backbone, reading, vector, rank)
                filled.lines.append(WordLine(*where, *word, *old.get(rank, EMPTY), *paper, record.id))
    return filled
