"""Figure 6: prompts of one data set on its shifted versions."""

from __future__ import annotations

from functools import partial

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import Measured, caption, columns, rows
from advpt.jobs.methods import ADVPT, ZEROSHOT
from advpt.results.exhibit import CLEAN, Exhibit, Figure, PointCell, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, points = b.setup, []
    shifted = partial(b.evaluated, purpose="shift", evaluation=Evaluation((f"{s.pgd}:transfer",)), source=s.source)
    measured = (Measured("clean", CLEAN, shifted), Measured("pgd40", robust(s.pgd), shifted))
    cells = rows(b, {ZEROSHOT: "shift", ADVPT: "shift"}, s.targets, measured)
    for row in cells:
        series = f"{row.method}, {'clean' if row.attack == 'clean' else s.pgd}"
        for at, (dataset, cell) in enumerate(zip(s.targets, row.cells)):
            if cell is not None:
                points.append(PointCell(row.backbone, series, s.column(dataset), float(at), cell))
    title, text = "Figure 6: domain shift", caption(b, "fig6", source=s.column(s.source))
    return [
        Figure("fig6", title, text, "bars", "data set", "accuracy (%)", tuple(points)),
        Table("fig6_table", f"{title}, in numbers", text, columns(s, s.targets), cells, glance=False),
    ]
