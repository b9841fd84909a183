"""The table of one model on many data sets: a row for each, their means, and what papers print of such a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from advpt.attacks.spec import parse
from advpt.evaluation.intervals import STATEMENT
from advpt.results import render
from advpt.results.exhibit import CLEAN, Cell, Metric, robust
from advpt.results.index import RecordIndex, Run
from advpt.results.published_towers import (
    Difference,
    TowerNumber,
    TowerPlace,
    on_our_images,
    paper_attack,
    tower_number,
)
from advpt.results.values import Value, value

NONE = "-"


@dataclass(frozen=True)
class MeasuredSet:
    """A data set by its registry name, the id of its run, and the pixels that attacks change (``EVAL.ATTACK_AT``).
    ``images``: so many of its test images, the name of a subset, or ``all``."""

    dataset: str
    run: str
    attack_at: str = "model"
    images: str = "all"


@dataclass(frozen=True)
class Tower:
    """An image tower as papers call it, and how it is evaluated: fields of :class:`TowerPlace`."""

    method: str
    backbone: str
    train_set: str
    base: str = "CLIP"
    protocol: str = "tecoa"
    prompt: str = "tecoa"

    def published(self, of: MeasuredSet, attack: str = "") -> TowerNumber | Difference:
        """What papers print of it on a data set, clean or under an attack in its short form; or what differs."""
        spec = parse(attack) if attack else None
        place = TowerPlace(
            **vars(self),
            dataset=of.dataset,
            eps=f"{spec.eps:g}" if spec is not None else "",
            attack=paper_attack(spec) if spec is not None else "",
            attack_at=of.attack_at,
            images=of.images,
        )
        return tower_number(place)


@dataclass(frozen=True)
class SetRow:
    """The numbers of a data set: clean, then under each attack; and what papers print of each, where that is asked."""

    of: MeasuredSet
    values: tuple[Value, ...]
    published: tuple[TowerNumber | Difference, ...] = ()

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
        names = [row.of.dataset for row in self.complete]
        heads, lines = (
            ["data set", "images"],
            [[row.name, f"{row.images:,}" if row.images else NONE] for row in self.rows],
        )
        mean = [f"mean of {len(names)}", ""]
        for i, column in enumerate(("clean", *(f"{attack}, adaptive" for attack in self.attacks))):
            heads.append(column)
            lines = [[*line, render.cell_text(row.values[i])] for line, row in zip(lines, self.rows)]
            mean.append(f"{self.means()[i]:.1f}" if names else NONE)
            if any(row.published for row in self.rows):
                printed = [row.published[i] for row in self.rows]
                heads.append("papers")
                lines = [[*line, paper_text(each)] for line, each in zip(lines, printed)]
                mean.append(published_mean([row.published[i] for row in self.complete]))
        lines.append(mean)
        parts = [f"{self.title}; accuracy in % [95 % interval]. Budgets in 1/255.", STATEMENT]
        parts.append(render.grid(heads, lines, style))
        if names:
            parts.append(
                f"The mean is over {', '.join(names)}, each counted once. Means over other lists are not comparable."
            )
        return "\n\n".join([*parts, *self.notes, *(f"without data: {line}" for line in self.absent)])


def paper_text(printed: TowerNumber | Difference) -> str:
    """A printed number with its source, or what differs in the nearest one."""
    if isinstance(printed, TowerNumber):
        return f"{printed.accuracy:.1f} ({printed.source})"
    if printed.nearest is None:
        return NONE
    return f"not comparable: {printed.text.partition(' differs: ')[2]}"


def published_mean(printed: Sequence[TowerNumber | Difference]) -> str:
    """The mean of a paper's numbers over the same data sets, where one source prints all of them."""
    numbers = [each for each in printed if isinstance(each, TowerNumber)]
    if not numbers or len(numbers) < len(printed) or len({each.source for each in numbers}) > 1:
        return NONE
    return f"{np.mean([each.accuracy for each in numbers]):.1f} ({numbers[0].source})"


def metrics(attacks: Sequence[str]) -> tuple[Metric, ...]:
    """Clean accuracy, and that under each attack by one who knows the model and its prompt."""
    return (CLEAN, *(robust(attack, "adaptive") for attack in attacks))


def fill(
    measured: Sequence[MeasuredSet], attacks: Sequence[str], runs: Mapping[str, Run], tower: Tower | None = None
) -> tuple[tuple[SetRow, ...], RecordIndex]:
    """The rows, from the records of the runs; notes on what is wrong with these are in the index. ``tower``: as papers
    call it, None where nothing is printed of it."""
    index, rows = RecordIndex(runs), []
    for each in measured:
        values = tuple(value(Cell((each.run,), metric), index) for metric in metrics(attacks))
        printed = tuple(tower.published(each, attack) for attack in ("", *attacks)) if tower is not None else ()
        printed = tuple(on_our_images(number, ours.comparable) for number, ours in zip(printed, values))
        rows.append(SetRow(each, values, printed))
    return tuple(rows), index
