"""One HTML file with tables, figures, pictures, notes and the list of records that every number links to, from the
template ``page.html.j2``. Styles and images are inside, no script, no network; whatever comes from a record, a path or
a data set is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from advpt.errors import RecordError
from advpt.evaluation import pictures
from advpt.evaluation.defended import inexact_gradient
from advpt.evaluation.intervals import STATEMENT
from advpt.evaluation.pictures import Picture, Pictures
from advpt.results import render
from advpt.results.exhibit import Exhibit
from advpt.results.figures import DrawnPoint
from advpt.results.index import RecordIndex, Run
from advpt.results.test_time import PART_HEADS, FilledParts
from advpt.results.values import FilledTable
from advpt.results.words import VECTOR_HEADS, WORD_HEADS, FilledWords

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Section:
    """A section of the page, with the files that lie in a folder beside it; a figure's first one is its image."""

    exhibit: Exhibit
    content: FilledTable | FilledWords | FilledParts | list[DrawnPoint]
    files: Sequence[Path] = ()

    @property
    def states(self) -> list[str]:
        """``value``, or the word in its place, of every number."""
        if isinstance(self.content, FilledTable):
            return [value.state for line in self.content.values for value in line]
        return [point.y.state for point in self.content] if isinstance(self.content, list) else []


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
    environment.tests["table"] = lambda content: isinstance(content, FilledTable)
    environment.tests["words"] = lambda content: isinstance(content, FilledWords)
    environment.tests["parts"] = lambda content: isinstance(content, FilledParts)
    shown = picture_groups(index)
    used = sorted(index.used.items(), key=lambda item: (item[1][0], item[1][1].result.seed, item[0]))
    return environment.get_template(TEMPLATE).render(
        title=title,
        about=about,
        statement=f"Accuracy in % [95 % interval]. Budgets in 1/255. {STATEMENT}",
        sections=sections,
        pictures=shown,
        images_of=images_of,
        index=index,
        used=used,
        render=render,
        inexact_gradient=inexact_gradient,
        word_heads=WORD_HEADS,
        vector_heads=VECTOR_HEADS,
        part_heads=PART_HEADS,
    )


def data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def picture_groups(index: RecordIndex) -> list[tuple[Run, Pictures]]:
    """The pictures that runs kept of their attack: clean image, attacked image, magnified change."""
    groups = []
    for run in index.runs.values():
        try:
            about = pictures.read(run.folder)
        except RecordError as error:
            index.refuse(error, run.folder / pictures.FOLDER / pictures.FILE)
            continue
        if about is None:
            continue
        if record := next((record for record in index.of(run).values() if record.id == about.record), None):
            index.use(record, run.name)
            groups.append((run, about))
        else:
            index.note("missing", f"the pictures of {run.name} belong to a record that is not there any more")
    return groups


def images_of(run: Run, picture: Picture) -> list[tuple[str, Path]]:
    """Kind and file of the images of a picture that are still there."""
    folder = run.folder / pictures.FOLDER
    files = [(kind, folder / Path(picture.files[kind]).name) for kind in pictures.KINDS if kind in picture.files]
    return [(kind, path) for kind, path in files if path.is_file()]
