"""The exhibits of a report before any number is known: each cell names its runs and which of their numbers it shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from advpt.defenses import parse as parse_defense
from advpt.evaluation.protocols import threats
from advpt.results.published import PaperCell
from advpt.results.published_towers import Difference, TowerNumber


@dataclass(frozen=True)
class Metric:
    """One number of a run: its clean accuracy (``protocol`` None), or that under an attack as it was asked for.

    ``attack`` and ``defense`` are expansions, as records hold them; see :func:`robust`.
    """

    protocol: str | None = None
    attack: str = ""
    defense: str = ""

    def __str__(self) -> str:
        text = "clean" if self.protocol is None else f"{self.protocol} {self.attack}"
        return text + (f" behind {self.defense}" if self.defense else "")


CLEAN = Metric()


def robust(attack: str, protocol: str = "transfer", defense: str = "") -> Metric:
    """The accuracy under an attack in its short form."""
    threat = threats((attack,), (protocol,))[0]
    return Metric(threat.protocol, str(threat.attack), str(parse_defense(defense)) if defense else "")


@dataclass(frozen=True)
class Cell:
    """A number over the seeds: the runs it comes from (ids), which of their numbers, and where the paper prints it."""

    runs: tuple[str, ...]
    metric: Metric
    paper: PaperCell | None = None


@dataclass(frozen=True)
class TableRow:
    """A row of a table: what its numbers have in common ("" where a table does not say), and one cell per column."""

    backbone: str
    method: str
    defense: str
    attack: str
    protocol: str
    cells: tuple[Cell | None, ...] = ()

    @property
    def comparable(self) -> tuple[str, ...]:
        """Rows that are equal in this differ in the method alone."""
        return (self.backbone, self.defense, self.attack, self.protocol)


@dataclass(frozen=True)
class Condition:
    """What numbers were measured under: the protocol ("" without an attack), the attack in words, and what else is to
    be known of the attacker ("" where the protocol says all)."""

    protocol: str
    attack: str
    about: str = ""


@dataclass(frozen=True)
class Table:
    """Rows by columns.

    Args:
        attacks: in their exact form, by the words that stand for them in heads and rows; those of cells need not be
            named.
        conditions: by head, where columns are attacks; none where they are data sets.
        glance: whether a figure of its numbers stands above it.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    attacks: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    glance: bool = True


@dataclass(frozen=True)
class DefenseRow:
    """A defense of a :class:`DefenseTable`: its name there, what records call it ("" for no defense), the run that
    measures it, and where a paper prints its clean and its ``static`` accuracy."""

    name: str
    recorded: str
    run: str
    clean: PaperCell | None = None
    static: PaperCell | None = None


@dataclass(frozen=True)
class DefenseTable:
    """Defenses at test time under one attack, no defense first, each with what it costs. What is written above it, and
    the parts of its adaptive attacks, come from the records.

    Args:
        attack: as it is asked for, under ``static``, ``pseudo`` and ``adaptive``.
        images, some: how many are evaluated, and how many under ``pseudo`` and ``adaptive``.
    """

    name: str
    title: str
    caption: str
    backbone: str
    dataset: str
    attack: str
    images: int
    some: int
    rows: tuple[DefenseRow, ...]


@dataclass(frozen=True)
class PartTable:
    """What each part of the adaptive attacks on the defenses of ``of`` left."""

    name: str
    title: str
    caption: str
    of: DefenseTable


@dataclass(frozen=True)
class TowerRow:
    """A row of a :class:`TowerTable`: the method, its runs, one for each seed, and what is published of each column
    (empty where nothing can be)."""

    method: str
    runs: tuple[str, ...]
    published: tuple[TowerNumber | Difference, ...] = ()


@dataclass(frozen=True)
class TowerTable:
    """Fine-tuned image towers, the one that was not tuned first. ``columns``: clean accuracy, then that under attacks,
    each with its head."""

    name: str
    title: str
    caption: str
    backbone: str
    dataset: str
    columns: tuple[tuple[str, Metric], ...]
    rows: tuple[TowerRow, ...]


@dataclass(frozen=True)
class Stack:
    """A prompt on a tower, and the defenses behind it."""

    tower: str
    prompt: str
    defended: DefenseTable


@dataclass(frozen=True)
class StackTable:
    """Tower x prompt x defense at test time under one attack; every stack has the same defenses and images."""

    name: str
    title: str
    caption: str
    stacks: tuple[Stack, ...]


@dataclass(frozen=True)
class BenchmarkRow:
    """A row of a :class:`BenchmarkTable`: what an image goes through, from the image tower to the defense.

    Args:
        tower: the image tower: that of the backbone, or the method that tuned it. prompt: where the prompt comes from,
            "" for a model that has none.
        defense: its name in tables. recorded: as records call it, "" for none; of the input or at test time.
        runs: ids, one for each seed.
        against: the row without this row's method, by its place in the table: without the defense, with the
            hand-written prompt, or on the tower that was not tuned; None for a row that nothing was done for.
        authors: the protocol by which the authors of this method measure it.
        clean, static: where a paper prints these accuracies.
    """

    tower: str
    prompt: str
    defense: str
    recorded: str
    runs: tuple[str, ...]
    against: int | None = None
    authors: str = "static"
    clean: PaperCell | None = None
    static: PaperCell | None = None


@dataclass(frozen=True)
class BenchmarkTable:
    """Base models x prompts x defenses under one budget.

    Args:
        attack: as it is asked for, under ``static``, ``pseudo`` and ``adaptive``. transfer: attacks of those who know
            the hand-written prompt alone, each a column.
        images, some: how many are evaluated, and how many under ``pseudo`` and ``adaptive``; 0 for all.
    """

    name: str
    title: str
    caption: str
    backbone: str
    dataset: str
    attack: str
    transfer: tuple[str, ...]
    images: int
    some: int
    rows: tuple[BenchmarkRow, ...]


@dataclass(frozen=True)
class SurvivalTable:
    """Of each row of ``of``: the gain over the row without its method as its authors measure it, and under the adaptive
    attacker, on the same images."""

    name: str
    title: str
    caption: str
    of: BenchmarkTable


@dataclass(frozen=True)
class WordColumn:
    """Nearest words of one run; ``dataset`` as the paper writes it."""

    dataset: str
    backbone: str
    run: str


@dataclass(frozen=True)
class WordTable:
    name: str
    title: str
    caption: str
    columns: tuple[WordColumn, ...]


@dataclass(frozen=True)
class PointCell:
    """A point of a figure. ``x``: a number, or a cell whose mean it is; ``label``: what the point stands for."""

    panel: str
    series: str
    label: str
    x: float | Cell
    y: Cell


@dataclass(frozen=True)
class TimeCurve:
    """Accuracy over the wall-clock of training runs: ``part`` is ``clean`` or ``robust``."""

    panel: str
    series: str
    runs: tuple[str, ...]
    part: Literal["clean", "robust"]


@dataclass(frozen=True)
class Figure:
    """``kind``: ``points`` (a scatter with labels), ``lines``, or ``bars`` (``label`` is the group)."""

    name: str
    title: str
    caption: str
    kind: Literal["points", "lines", "bars"]
    x: str
    y: str
    point_cells: tuple[PointCell, ...] = ()
    time_curves: tuple[TimeCurve, ...] = ()
    log_x: bool = False


Exhibit = (
    Table | DefenseTable | PartTable | TowerTable | StackTable | BenchmarkTable | SurvivalTable | WordTable | Figure
)
