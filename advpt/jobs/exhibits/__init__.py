"""Tables and figures: each is a function that adds its runs to a builder and says what stands where. One file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.errors import ConfigError, unknown_name
from advpt.jobs.builder import Builder, Variant
from advpt.jobs.exhibits import (
    curves,
    efficiency,
    fig3,
    fig4,
    fig5,
    fig6,
    fig7,
    peers,
    table1,
    table2,
    table3,
    table4,
    table5,
    tapt,
    test_time,
    towers,
)
from advpt.jobs.plan import Plan
from advpt.jobs.setup import ReproductionSetup
from advpt.results.exhibit import (
    BenchmarkTable,
    DefenseTable,
    Exhibit,
    Figure,
    PartTable,
    StackTable,
    SurvivalTable,
    TowerTable,
)

EXHIBITS: dict[str, Callable[[Builder], list[Exhibit]]] = {
    module.__name__.rpartition(".")[2]: module.exhibits
    for module in (
        table1, table2, table3, table4, table5, fig3, fig4, fig5, fig6, fig7, curves, efficiency, peers, tapt,
        test_time, towers,
    )
}  # fmt: skip
NOT_IN_ALL = ("peers", "tapt", "test_time", "towers")  # not of AdvPT's paper


@dataclass(frozen=True)
class Exhibits:
    """Tables and figures, and the plan of the runs that they need."""

    exhibits: tuple[Exhibit, ...]
    plan: Plan


def plan_exhibits(
    names: Sequence[str],
    setup: ReproductionSetup,
    repository: Path,
    more: Sequence[tuple[str, str]] = (),
    variant: Variant = Variant(),  # noqa: B008 - frozen
) -> Exhibits:
    """The exhibits of a request and their plan.

    Args:
        names: of :data:`EXHIBITS`; ``all``: those of AdvPT's paper. more: settings of every run.
        variant: of the exhibits peers and tapt.

    Raises:
        ConfigError: an unknown exhibit, one that has no data set or backbone left, or a variant of one that was not
            asked for.
    """
    paper = [name for name in EXHIBITS if name not in NOT_IN_ALL]
    wanted = list(dict.fromkeys(part for name in names for part in (paper if name == "all" else [name])))
    for name in wanted:
        if name not in EXHIBITS:
            raise ConfigError(f"{unknown_name('table or figure', name, [*EXHIBITS, 'all'])}")
    for flag, given, of in (
        ("--as-published", variant.as_published, "peers"),
        ("--all-statistics", variant.all_statistics, "tapt"),
    ):
        if given and of not in wanted:
            raise ConfigError(f"{flag} is a variant of {of}, which is not asked for; expected: reproduce {of} {flag}")
    builder = Builder(setup, repository, more, variant)
    exhibits: list[Exhibit] = []
    for name in wanted:
        made = EXHIBITS[name](builder)
        filled = [each for each in made if not _is_empty(each)]
        if len(filled) < len(made) and "all" not in names:
            raise ConfigError(f"{name} has nothing left to show with these data sets and backbones; give others")
        exhibits += filled
    plan = builder.plan()
    if not plan.jobs:
        raise ConfigError("nothing is left to do with these data sets and backbones; give others")
    return Exhibits(tuple(exhibits), plan)


def _is_empty(exhibit: Exhibit) -> bool:
    if isinstance(exhibit, Figure):
        return not (exhibit.point_cells or exhibit.time_curves)
    if isinstance(exhibit, DefenseTable | PartTable | TowerTable | StackTable | BenchmarkTable | SurvivalTable):
        return False  # there is none without a data set and a backbone
    return not exhibit.columns
