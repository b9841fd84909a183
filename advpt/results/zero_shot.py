"""The table of one model on many data sets: a row for each, their means, and what papers print of such a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from advpt.evaluation.intervals import STATEMENT
from advpt.results import render
from advpt.results.exhibit import CLEAN, Cell, Metric, robust
from advpt.results.index import RecordIndex, Run
from advpt.results.values import Value, value

NONE = "-"


@dataclass(frozen=True)
class MeasuredSet:
    """A data set by its registry name, the id of its run, and the pixels that attacks change (``EVAL.ATTACK_AT``)."""

    dataset: str
    run: str
    attack_at: str = "model"


@dataclass(frozen=True)
class SetRow:
    """The numbers of a data set: clean, then under each attack, each with what papers print, in words."""

    of: MeasuredSet
    values: tuple[Value, ...]
    published: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """So many were evaluated; 0 where nothing was."""
        return max((each.runs.images for each in self.values if each.runs is not None), default=0)

    @property
    def name(self) -> str:
        """The data set, and where it is attacked if that is not at the model's size."""
        return self.of.dataset + (", attacked at its own size" if self.of.attack_at == "native" else "")

    @property
    def measured(self) -> bool:
        """Whether all numbers are there."""
        return all(each.interval is not None for each in self.values)


@dataclass(frozen=True)
class ZeroShotTable:
    """All data sets of one model. ``attacks``: in their short form; ``absent``: sentences on data sets without data."""

    title: str
    attacks: tuple[str, ...]
    rows: tuple[SetRow, ...]
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def complete(self) -> list[SetRow]:
        """The rows that the mean is of."""
        return [row for row in self.rows if row.measured]

    def means(self) -> list[float]:
        """Mean clean accuracy over the data sets, and under each attack, in percent; each data set counts once."""
        columns = zip(*(tuple(each.interval.mean for each in row.values if each.interval) for row in self.complete))
        return [float(np.mean(column)) for column in columns]

    def text(self, style: str = "github") -> str:
        """The table, the list of the data sets of its means, and what is missing."""
        beside = any(any(row.published) for row in self.rows)
        names = [row.of.dataset for row in self.complete]
        heads = ["data set", "images", "clean", *(f"{attack}, adaptive" for attack in self.attacks)]
        lines = [
            [row.name, f"{row.images:,}" if row.images else NONE, *map(render.cell_text, row.values)]
            for row in self.rows
        ]
        if means := self.means():
            lines.append([f"mean of {len(names)}", "", *(f"{each:.1f}" for each in means)])
        if beside:
            heads.append("papers: clean; attacked")
            lines = [[*line, "; ".join(row.published)] for line, row in zip(lines, self.rows)] + lines[len(self.rows) :]
        parts = [f"{self.title}; accuracy in % [95 % interval]. Budgets in 1/255.", STATEMENT]
        parts.append(render.grid(heads, lines, style))
        if names:
            listed = ", ".join(names)
            parts.append(
                f"The mean is over {listed}, each counted once; means over other lists do not compare with it."
            )
        return "\n\n".join([*parts, *self.notes, *(f"without data: {line}" for line in self.absent)])


def metrics(attacks: Sequence[str]) -> tuple[Metric, ...]:
    """Clean accuracy, and that under each attack by one who knows the model and its prompt."""
    return (CLEAN, *(robust(attack, "adaptive") for attack in attacks))


def fill(
    measured: Sequence[MeasuredSet], attacks: Sequence[str], runs: Mapping[str, Run]
) -> tuple[tuple[SetRow, ...], RecordIndex]:
    """The rows, from the records of the runs; notes on what is wrong with these are in the index."""
    index = RecordIndex(runs)
    wanted = metrics(attacks)
    rows = tuple(SetRow(each, tuple(value(Cell((each.run,), metric), index) for metric in wanted)) for each in measured)
    return rows, index
