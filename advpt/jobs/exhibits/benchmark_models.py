"""Outside models in the tables of a benchmark: below its own rows, or alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.benchmark import survival
from advpt.jobs.exhibits.common import caption
from advpt.jobs.outside_models import MeasuredModel
from advpt.results.exhibit import BenchmarkRow, BenchmarkTable, Exhibit, SurvivalTable

Models = Mapping[str, Sequence[MeasuredModel]]  # by data set, as tables call it


def below(exhibits: Sequence[Exhibit], models: Models) -> tuple[Exhibit, ...]:
    """The exhibits with the rows of ``models`` at the end of every table of their data set."""
    made = list[Exhibit]()
    for exhibit in exhibits:
        if isinstance(exhibit, BenchmarkTable):
            made.append(_with_rows(exhibit, models.get(exhibit.dataset, ())))
        elif isinstance(exhibit, SurvivalTable):
            made.append(dataclasses.replace(exhibit, of=_with_rows(exhibit.of, models.get(exhibit.of.dataset, ()))))
        else:
            made.append(exhibit)
    return tuple(made)


def alone(b: Builder, models: Models) -> tuple[Exhibit, ...]:
    """Tables of outside models alone, one for each data set and budget, and of their gains where they have some."""
    s, made = b.setup.benchmark, list[Exhibit]()
    for dataset, measured in models.items():
        for budget in s.budgets:
            names = ", ".join(each.name for each in measured)
            title, name = f"Benchmark: {names}, {dataset}, {budget.eps:g}/255", f"benchmark_{dataset}_{budget.eps:g}"
            text = caption(b, "benchmark_models", budget=budget)
            n = max(each.images for each in measured)
            some = min(n, s.some) if s.some else n
            empty = BenchmarkTable(name, title, text, names, dataset, budget.attack, (), n, some, ())
            table = _with_rows(empty, measured)
            made.append(table)
            if any(row.against is not None for row in table.rows):
                made.append(survival(b, table, budget))
    return tuple(made)


def _with_rows(table: BenchmarkTable, models: Sequence[MeasuredModel]) -> BenchmarkTable:
    rows = list(table.rows)
    for model in models:
        first = len(rows)
        rows += [_moved(row, first) for row in model.rows]
    return dataclasses.replace(table, rows=tuple(rows))


def _moved(row: BenchmarkRow, first: int) -> BenchmarkRow:
    """A row whose model begins at row ``first`` of a table."""
    return row if row.against is None else dataclasses.replace(row, against=row.against + first)
