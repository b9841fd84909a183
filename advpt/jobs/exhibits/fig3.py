"""Figure 3: clean against robust accuracy of CoOp and AdvPT."""

from __future__ import annotations

import itertools

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.common import caption, two_coops
from advpt.jobs.methods import table_name
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Figure, PointCell, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, points = b.setup, []
    for backbone, dataset, method in itertools.product(s.backbones, s.datasets, b.tuned_methods()):
        runs = b.main(method, dataset, backbone)
        x, y = Cell(runs, CLEAN), Cell(runs, robust(s.pgd))
        points.append(PointCell(s.column(backbone), table_name(method), s.column(dataset), x, y))
    text = caption(b, "fig3", coops=two_coops(b, s.datasets, s.backbones))
    title, axes = "Figure 3: trade-off of CoOp and AdvPT", ("clean accuracy (%)", "robust accuracy (%)")
    return [Figure("fig3", title, text, "points", *axes, tuple(points))]
