"""Write a report: tables (Markdown, CSV, LaTeX), figures (PNG, PDF, CSV), and one HTML page that links them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.files import write_text
from advpt.results import figures, page, render
from advpt.results.index import Note, RecordIndex, Run
from advpt.results.layout import Exhibit, Table, WordTable
from advpt.results.values import Value, fill

TABLES, FIGURES, PAGE = "tables", "figures", "index.html"


@dataclass(frozen=True)
class Report:
    """What was written, what to know about it, and how many numbers are there or are words instead."""

    page: Path
    files: tuple[Path, ...]
    notes: tuple[Note, ...]
    words: Mapping[str, int]


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
        top: the folder of all runs; records below it that belong to none of them are noted.
    """
    index = RecordIndex(runs, top)
    written: list[Path] = []
    sections: list[str] = []
    entries: list[tuple[str, str]] = []
    counts: dict[str, int] = {}

    def count(values: Sequence[Value]) -> None:
        for value in values:
            counts[value.state] = counts.get(value.state, 0) + 1

    def beside(paths: Sequence[Path]) -> list[str]:
        return [str(path.relative_to(folder)) for path in paths]

    for exhibit in exhibits:
        if isinstance(exhibit, Table):
            values = fill(exhibit, index)
            count([v for line in values for v in line])
            texts = {
                "md": render.markdown(exhibit, values),
                "csv": render.comma_separated(exhibit, values),
                "tex": render.latex(exhibit, values),
            }
            paths = _write_all(folder / TABLES / exhibit.name, texts)
            sections.append(page.table_section(exhibit, values, beside(paths)))
        elif isinstance(exhibit, WordTable):
            lines, _ = render.word_rows(exhibit, index)
            texts = {"md": render.word_markdown(exhibit, index), "csv": render.to_csv(render.WORD_HEADS, lines)}
            paths = _write_all(folder / TABLES / exhibit.name, texts)
            sections.append(page.word_section(exhibit, index, beside(paths)))
        else:
            found = figures.points(exhibit, index)
            count([p.y for p in found])
            paths = figures.draw(exhibit, found, folder / FIGURES)
            ids = list(dict.fromkeys(i for p in found for i in p.ids))
            sections.append(page.figure_section(exhibit, paths[0], ids, beside(paths)))
        written += paths
        entries.append((exhibit.name, exhibit.title))
    if taken := page.picture_section(runs.values(), index):
        sections.append(taken)
        entries.append(("pictures", "Pictures of the attack"))
    if top is not None:
        index.strays([top])
    sections += [page.note_section(index.notes), page.record_section(index.used, index)]
    entries += [("notes", "Notes"), ("records", "Records")]
    target = folder / PAGE
    write_text(target, page.page(title, about, sections, entries))
    return Report(target, (*written, target), tuple(index.notes), counts)


def _write_all(stem: Path, texts: Mapping[str, str]) -> list[Path]:
    paths = []
    for ending, text in texts.items():
        path = stem.with_name(f"{stem.name}.{ending}")
        write_text(path, text)
        paths.append(path)
    return paths


__all__ = ["FIGURES", "PAGE", "TABLES", "Report", "write"]
