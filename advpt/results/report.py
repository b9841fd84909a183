"""Write a report: tables (Markdown, CSV, LaTeX), figures (PNG, PDF, CSV), and one HTML page that links them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advpt.files import write_text
from advpt.results import figures, glance, render, survival_figure, survival_text
from advpt.results.benchmark import comma_separated as benchmark_csv
from advpt.results.benchmark import fill_benchmark
from advpt.results.canvas import Drawing
from advpt.results.exhibit import (
    BenchmarkTable,
    DefenseTable,
    Exhibit,
    Figure,
    PartTable,
    StackTable,
    SurvivalTable,
    Table,
    TowerTable,
)
from advpt.results.figures import DrawnPoint
from advpt.results.groups import groups
from advpt.results.index import Note, RecordIndex, Run
from advpt.results.page import Section, page
from advpt.results.survival import FilledSurvival, fill_survival
from advpt.results.test_time import FilledParts, comma_separated, fill_defenses, fill_parts
from advpt.results.towers import comma_separated as towers_csv
from advpt.results.towers import comma_separated_stacks, fill_stacks, fill_towers
from advpt.results.training_curves import training_curves
from advpt.results.values import FilledTable, fill
from advpt.results.words import FilledWords, fill_words

TABLES, FIGURES, PAGE = "tables", "figures", "index.html"
ABOUT = "How many test images get their true class: as they are, and under attacks that know less or more of the model."


@dataclass(frozen=True)
class Report:
    """What was written, notes on its records, how many numbers are there or are words instead, and by the title of a
    table of gains what it comes to."""

    page: Path
    files: tuple[Path, ...]
    notes: tuple[Note, ...]
    words: Mapping[str, int]
    sentences: Mapping[str, Sequence[str]] = field(default_factory=dict)


def overview(folders: Sequence[Path], first: tuple[str, ...], ours: str, path: Path | None = None) -> list[FilledTable]:
    """Tables of all records below the folders; RecordError where there is none.

    Args:
        first, ours: methods, as of :class:`~advpt.results.groups.Group`.
        path: where the same goes as an HTML page, with its figures in a folder beside it.
    """
    index = RecordIndex()
    records = index.collect(folders)
    for record in records:
        index.use(record, f"{record.result.trainer}, seed {record.result.seed}")
    made = groups(records, first, ours)
    tables = [group.table() for group in made]
    if path is not None:
        sections: list[Section] = []
        for place, alike in itertools.groupby(zip(made, tables), lambda pair: pair[0].place):
            sections += _of_one_place(", ".join(place), [table for _, table in alike], path.parent / FIGURES)
        title = f"Clean and robust accuracy: {', '.join(folder.absolute().name for folder in folders)}"
        write_text(path, page(title, ABOUT, [*sections, *_curves(index, path.parent)], index))
    return tables


def _of_one_place(name: str, tables: Sequence[FilledTable], folder: Path) -> list[Section]:
    """The sections of one data set and backbone (``name``): a figure of all, then the tables. One table alone shares
    its section with the figure."""
    if len(tables) == 1:
        return [Section(tables[0].table, tables[0], drawing=glance_drawing(tables, folder))]
    about = Figure(re.sub(r"\W+", "-", name), f"{name} at a glance", "", "bars", "", "")
    drawing = glance_drawing(tables, folder, about.name)
    if drawing is None:
        return [Section(table.table, table) for table in tables]
    return [Section(about, [], drawing=drawing), *(Section(table.table, table) for table in tables)]


def glance_drawing(tables: Sequence[FilledTable], folder: Path, name: str = "") -> Drawing | None:
    """The figure above tables (:func:`~advpt.results.glance.bars`), written into ``folder``; None without a number.
    ``name``: of its files, "" for the first table's."""
    drawn, table = glance.bars(tables), tables[0].table
    if all(bar.value is None for bar in drawn):
        return None
    files = glance.draw(drawn, folder, f"{name or table.name}_glance")
    ids = tuple(dict.fromkeys(i for bar in drawn for i in bar.ids))
    return Drawing(tuple(files), glance.narrow(drawn), glance.summary(table.title, drawn), glance.caption(drawn), ids)


def _figure(exhibit: Figure, points: list[DrawnPoint], folder: Path) -> Section:
    """Draw a figure into ``folder`` and make its section of the page."""
    files, ids = figures.draw(exhibit, points, folder / FIGURES), tuple(dict.fromkeys(i for p in points for i in p.ids))
    text, caption = figures.summary(exhibit, points), f"{exhibit.caption} {figures.READING[exhibit.kind]}"
    return Section(exhibit, points, files, Drawing(tuple(files), figures.narrow(exhibit, points), text, caption, ids))


def _curves(index: RecordIndex, folder: Path) -> list[Section]:
    """The section of the training curves of the records that are used, where there are any."""
    exhibit, points = training_curves([record for _, record in index.used.values()])
    return [_figure(exhibit, points, folder)] if points else []


def _section(exhibit: Exhibit, index: RecordIndex, folder: Path) -> Section:
    """Write an exhibit into ``folder`` and make its section of the page."""
    if isinstance(exhibit, Figure):
        return _figure(exhibit, figures.points(exhibit, index), folder)
    content: FilledTable | FilledSurvival | FilledWords | FilledParts
    drawing = None
    if isinstance(exhibit, Table | DefenseTable | TowerTable | StackTable | BenchmarkTable):
        content, numbers = _filled(exhibit, index)
        drawing = glance_drawing([content], folder / FIGURES) if content.table.glance else None
        texts = {"md": f"{render.text(content)}\n", "csv": numbers, "tex": render.latex(content)}
    elif isinstance(exhibit, SurvivalTable):
        content = fill_survival(exhibit, index)
        drawing = survival_figure.draw(content, folder / FIGURES)
        numbers = survival_text.comma_separated(content)
        texts = {"md": f"{survival_text.text(content)}\n", "csv": numbers, "tex": survival_text.latex(content)}
    else:
        content = fill_parts(exhibit, index) if isinstance(exhibit, PartTable) else fill_words(exhibit, index)
        texts = {"md": content.text(), "csv": content.comma_separated()}
    paths = [folder / TABLES / f"{exhibit.name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values()):
        write_text(path, text)
    return Section(exhibit, content, paths, drawing)


def _filled(
    exhibit: Table | DefenseTable | TowerTable | StackTable | BenchmarkTable, index: RecordIndex
) -> tuple[FilledTable, str]:
    """A table with its numbers, and the same with commas."""
    if isinstance(exhibit, DefenseTable):
        content = fill_defenses(exhibit, index)
        return content, comma_separated(exhibit, content)
    if isinstance(exhibit, TowerTable):
        content = fill_towers(exhibit, index)
        return content, towers_csv(exhibit, content)
    if isinstance(exhibit, StackTable):
        content = fill_stacks(exhibit, index)
        return content, comma_separated_stacks(exhibit, content)
    if isinstance(exhibit, BenchmarkTable):
        content = fill_benchmark(exhibit, index)
        return content, benchmark_csv(exhibit, content)
    content = fill(exhibit, index)
    return content, render.comma_separated(content)


def write(
    exhibits: Sequence[Exhibit],
    runs: Mapping[str, Run],
    folder: Path,
    *,
    title: str,
    about: str,
    top: Path | None = None,
) -> Report:
    """Write the report of ``exhibits`` into ``folder``.

    Args:
        runs: by id, every run that an exhibit names. title, about: plain text, at the head of the page.
        top: the folder of all runs; records below it that belong to none of them are noted.
    """
    index = RecordIndex(runs, top)
    sections = [_section(exhibit, index, folder) for exhibit in exhibits]
    if not any(isinstance(exhibit, Figure) and exhibit.time_curves for exhibit in exhibits):
        sections += _curves(index, folder)
    if top is not None:
        index.note_strays(top)
    target = folder / PAGE
    write_text(target, page(title, about, sections, index))
    files = [path for section in sections for path in section.links]
    words = Counter(state for section in sections for state in section.states)
    gains = [section.content for section in sections if isinstance(section.content, FilledSurvival)]
    sentences = {filled.table.title: survival_text.sentences(filled) for filled in gains}
    return Report(target, (*files, target), tuple(index.notes), words, sentences)
