"""One HTML file with everything: tables, figures, pictures, notes and the list of records that every number links to.

Self-contained: styles and images are inside, no script, no network. Whatever comes from a record, a path or a data set
is escaped. Its text is the template ``page.html.j2``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from advpt.errors import RecordError
from advpt.evaluation import pictures
from advpt.evaluation.defended import inexact_gradient
from advpt.evaluation.intervals import STATEMENT
from advpt.results import render
from advpt.results.exhibit import Exhibit
from advpt.results.index import RecordIndex, Run
from advpt.results.values import FilledTable
from advpt.results.words import VECTOR_HEADS, WORD_HEADS, FilledWords

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Section:
    """A section of the page, with the files that lie beside it (relative to the page)."""

    exhibit: Exhibit
    content: FilledTable | FilledWords | DrawnFigure
    files: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``Table``, ``WordTable`` or ``Figure``."""
        return type(self.exhibit).__name__


@dataclass(frozen=True)
class DrawnFigure:
    """A figure's image file and the ids of the records behind it."""

    png: Path
    ids: tuple[str, ...]


@dataclass(frozen=True)
class PictureGroup:
    """The pictures of a run."""

    run: Run
    about: pictures.Pictures

    def images(self, picture: pictures.Picture) -> list[tuple[str, Path]]:
        """Kind and file of those that are still there."""
        folder = self.run.folder / pictures.FOLDER
        files = [(kind, folder / Path(picture.files[kind]).name) for kind in pictures.KINDS if kind in picture.files]
        return [(kind, path) for kind, path in files if path.is_file()]


def page(title: str, about: str, sections: Sequence[Section], index: RecordIndex) -> str:
    """The whole file.

    Args:
        title, about: plain text. index: the records that were used, and what is wrong with others.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    shown = picture_groups(index.runs.values(), index)
    used = sorted(index.used.items(), key=lambda item: (item[1][0], item[1][1].result.seed, item[0]))
    return environment.get_template(TEMPLATE).render(
        title=title,
        about=about,
        statement=f"Accuracy in % [95 % interval]. {STATEMENT}",
        sections=sections,
        pictures=shown,
        index=index,
        used=used,
        render=render,
        inexact_gradient=inexact_gradient,
        name_of=lambda file: Path(file).name,
        word_heads=WORD_HEADS,
        vector_heads=VECTOR_HEADS,
    )


def data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def picture_groups(runs: Iterable[Run], index: RecordIndex) -> list[PictureGroup]:
    """The pictures that runs kept of their attack: clean image, attacked image, magnified change."""
    groups = []
    for run in runs:
        try:
            about = pictures.read(run.folder)
        except RecordError as error:
            index.refuse(error, run.folder / pictures.FOLDER / pictures.FILE)
            continue
        if about is None:
            continue
        record = next((record for record in index.of(run).values() if record.id == about.record), None)
        if record is None:
            index.note("missing", f"the pictures of {run.name} belong to a record that is not there any more")
            continue
        index.use(record, run.name)
        groups.append(PictureGroup(run, about))
    return groups
