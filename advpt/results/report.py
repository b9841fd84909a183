"""Write a report: tables (Markdown, CSV, LaTeX), figures (PNG, PDF, CSV), and one HTML page that links them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advpt.files import write_text
from advpt.results import figures, render
from advpt.results.exhibit import Exhibit, Table, WordTable
from advpt.results.groups import groups
from advpt.results.index import Note, RecordIndex, Run
from advpt.results.page import DrawnFigure, Section, page
from advpt.results.values import FilledTable, fill
from advpt.results.words import fill_words

TABLES, FIGURES, PAGE = "tables", "figures", "index.html"


@dataclass(frozen=True)
class Report:
    """What was written, notes on its records, and how many numbers are there or are words instead."""

    page: Path
    files: tuple[Path, ...]
    notes: tuple[Note, ...]
    words: Mapping[str, int]


def overview(folders: Sequence[Path], first: tuple[str, ...], ours: str, path: Path | None = None) -> list[FilledTable]:
    """Tables of all records below the folders.

    Args:
        first, ours: methods, as of :class:`~advpt.results.groups.Group`. path: where the same goes as an HTML page.

    Raises:
        RecordError: a folder does not exist, or there is no record at all.
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


@dataclass
class _Writer:
    """Writes exhibits into ``folder`` and makes their sections of the page."""

    folder: Path
    index: RecordIndex
    files: list[Path] = field(default_factory=list)
    words: Counter[str] = field(default_factory=Counter)

    def section(self, exhibit: Exhibit) -> Section:
        if isinstance(exhibit, Table):
            filled = fill(exhibit, self.index)
            self.words.update(value.state for line in filled.values for value in line)
            texts = {"md": f"{render.text(filled)}\n", "csv": render.comma_separated(filled)}
            return Section(exhibit, filled, self.write(exhibit.name, texts | {"tex": render.latex(filled)}))
        if isinstance(exhibit, WordTable):
            words = fill_words(exhibit, self.index)
            texts = {"md": words.text(), "csv": words.comma_separated()}
            return Section(exhibit, words, self.write(exhibit.name, texts))
        points = figures.points(exhibit, self.index)
        self.words.update(point.y.state for point in points)
        paths = figures.draw(exhibit, points, self.folder / FIGURES)
        ids = tuple(dict.fromkeys(id_ for point in points for id_ in point.ids))
        return Section(exhibit, DrawnFigure(paths[0], ids), self.beside(paths))

    def write(self, name: str, texts: Mapping[str, str]) -> tuple[str, ...]:
        paths = [self.folder / TABLES / f"{name}.{ending}" for ending in texts]
        for path, text in zip(paths, texts.values()):
            write_text(path, text)
        return self.beside(paths)

    def beside(self, paths: Sequence[Path]) -> tuple[str, ...]:
        self.files += paths
        return tuple(str(path.relative_to(self.folder)) for path in paths)


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
        runs: by id, every run that an exhibit names.
        title, about: plain text, at the head of the page.
        top: the folder of all runs; records below it that belong to none of them are noted.
    """
    writer = _Writer(folder, RecordIndex(runs, top))
    sections = [writer.section(exhibit) for exhibit in exhibits]
    if top is not None:
        writer.index.note_strays(top)
    target = folder / PAGE
    write_text(target, page(title, about, sections, writer.index))
    return Report(target, (*writer.files, target), tuple(writer.index.notes), dict(writer.words))
