"""Write a report: tables (Markdown, CSV, LaTeX), figures (PNG, PDF, CSV), and one HTML page that links them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.files import write_text
from advpt.results import figures, render
from advpt.results.exhibit import DefenseTable, Exhibit, Figure, PartTable, StackTable, Table, TowerTable
from advpt.results.groups import groups
from advpt.results.index import Note, RecordIndex, Run
from advpt.results.page import Section, page
from advpt.results.test_time import FilledParts, comma_separated, fill_defenses, fill_parts
from advpt.results.towers import comma_separated as towers_csv
from advpt.results.towers import comma_separated_stacks, fill_stacks, fill_towers
from advpt.results.values import FilledTable, fill
from advpt.results.words import FilledWords, fill_words

TABLES, FIGURES, PAGE = "tables", "figures", "index.html"


@dataclass(frozen=True)
class Report:
    """What was written, notes on its records, and how many numbers are there or are words instead."""

    page: Path
    files: tuple[Path, ...]
    notes: tuple[Note, ...]
    words: Mapping[str, int]


def overview(folders: Sequence[Path], first: tuple[str, ...], ours: str, path: Path | None = None) -> list[FilledTable]:
    """Tables of all records below the folders; RecordError where there is none.

    Args:
        first, ours: methods, as of :class:`~advpt.results.groups.Group`. path: where the same goes as an HTML page.
    """
    index = RecordIndex()
    records = index.collect(folders)
    for record in records:
        index.use(record, f"{record.result.trainer}, seed {record.result.seed}")
    tables = [group.table() for group in groups(records, first, ours)]
    if path is not None:
        title = f"Records of {', '.join(folder.absolute().name for folder in folders)}"
        write_text(path, page(title, "", [Section(table.table, table) for table in tables], index))
    return tables


def _section(exhibit: Exhibit, index: RecordIndex, folder: Path) -> Section:
    """Write an exhibit into ``folder`` and make its section of the page."""
    if isinstance(exhibit, Figure):
        points = figures.points(exhibit, index)
        return Section(exhibit, points, figures.draw(exhibit, points, folder / FIGURES))
    content: FilledTable | FilledWords | FilledParts
    if isinstance(exhibit, Table | DefenseTable | TowerTable | StackTable):
        content, numbers = _filled(exhibit, index)
        texts = {"md": f"{render.text(content)}\n", "csv": numbers, "tex": render.latex(content)}
    else:
        content = fill_parts(exhibit, index) if isinstance(exhibit, PartTable) else fill_words(exhibit, index)
        texts = {"md": content.text(), "csv": content.comma_separated()}
    paths = [folder / TABLES / f"{exhibit.name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values()):
        write_text(path, text)
    return Section(exhibit, content, paths)


def _filled(exhibit: Table | DefenseTable | TowerTable | StackTable, index: RecordIndex) -> tuple[FilledTable, str]:
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
    if top is not None:
        index.note_strays(top)
    target = folder / PAGE
    write_text(target, page(title, about, sections, index))
    files = [path for section in sections for path in section.files]
    words = Counter(state for section in sections for state in section.states)
    return Report(target, (*files, target), tuple(index.notes), words)
