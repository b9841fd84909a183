"""One HTML file with tables, figures, pictures, notes and the list of records that every number links to, from the
template ``page.html.j2``. Styles and images are inside, no network; whatever comes from a record, a path or a data set
is escaped. A page with a long table has one script inside (``page.js``: filters and sorting) and is whole without it;
its policy keeps a browser from any other."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import markupsafe

from advpt.evaluation.defended import inexact_gradient
from advpt.results import filters, render, survival_text, terms
from advpt.results.canvas import DPI, Drawing
from advpt.results.examples import examples
from advpt.results.exhibit import Exhibit
from advpt.results.figures import DrawnPoint
from advpt.results.index import RecordIndex
from advpt.results.survival import FilledSurvival
from advpt.results.test_time import PART_HEADS, FilledParts
from advpt.results.values import FilledTable
from advpt.results.words import VECTOR_HEADS, WORD_HEADS, FilledWords

TEMPLATE = "page.html.j2"
PIXELS = 110  # of an inch of a figure on a wide screen, so that all have letters of one size
NARROW = 620  # pixels, below which a page shows the panels of a figure below each other


@dataclass(frozen=True)
class Section:
    """A section of the page: a figure, a table, or a table below a figure. ``files`` lie in a folder beside it."""

    exhibit: Exhibit
    content: FilledTable | FilledSurvival | FilledWords | FilledParts | list[DrawnPoint]
    files: Sequence[Path] = ()
    drawing: Drawing | None = None

    @property
    def states(self) -> list[str]:
        """``value``, or the word in its place, of every number."""
        if isinstance(self.content, FilledTable):
            return [value.state for line in self.content.values for value in line]
        if isinstance(self.content, FilledSurvival):
            return self.content.states
        return [point.y.state for point in self.content] if isinstance(self.content, list) else []

    @property
    def links(self) -> list[Path]:
        """Its files, each once."""
        return list(dict.fromkeys((*(self.drawing.files if self.drawing is not None else ()), *self.files)))


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
    environment.filters["width"] = width
    environment.filters["columns"] = filters.columns
    environment.tests["table"] = lambda content: isinstance(content, FilledTable)
    environment.tests["survival"] = lambda content: isinstance(content, FilledSurvival)
    environment.tests["words"] = lambda content: isinstance(content, FilledWords)
    environment.tests["parts"] = lambda content: isinstance(content, FilledParts)
    shown = examples(index)
    used = sorted(index.used.items(), key=lambda item: (item[1][0], item[1][1].result.seed, item[0]))
    tables = [section.content for section in sections if isinstance(section.content, FilledTable)]
    script = filters.SCRIPT.read_text() if any(filters.columns(section.content) for section in sections) else ""
    text = environment.get_template(TEMPLATE).render(
        title=title,
        about=about,
        terms=terms.explained(tables, [record for _, record in index.used.values()]) if tables else [],
        sections=sections,
        examples=shown,
        index=index,
        used=used,
        render=render,
        survival_text=survival_text,
        under_heads=terms.under_heads,
        head_words=terms.HEADS,
        protocol_words=terms.SHORT,
        narrow_below=NARROW,
        inexact_gradient=inexact_gradient,
        word_heads=WORD_HEADS,
        vector_heads=VECTOR_HEADS,
        part_heads=PART_HEADS,
        script=markupsafe.Markup(script),
        policy=filters.policy(script),
    )
    return text.lstrip()  # macros leave empty lines


def data_uri(image: Path | bytes) -> str:
    content = image if isinstance(image, bytes) else image.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()


def width(path: Path) -> int:
    """The pixels across that a figure has on a wide screen. Its own stand in the header of the file."""
    return int.from_bytes(path.read_bytes()[16:20]) * PIXELS // DPI
