"""Figure 3: clean against robust accuracy of CoOp and AdvPT."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.common import two_coops
from advpt.jobs.methods import table_name
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Figure, PointCell, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, point_cells = b.setup, []
    for backbone in s.backbones:
        for dataset in s.datasets:
            for method in b.tuned_methods():
                runs = b.main(method, dataset, backbone)
                x, y = Cell(runs, CLEAN), Cell(runs, robust(s.pgd))
                point_cells.append(PointCell(s.column(backbone), table_name(method), s.column(dataset), x, y))
    caption = (
        f"Accuracy on clean images against that under {s.pgd} (transfer), mean over seeds, 95 % intervals. "
        f"{two_coops(b, s.datasets, s.backbones)} {s.caption()}"
    )
    title, axes = "Figure 3: trade-off of CoOp and AdvPT", ("clean accuracy (%)", "robust accuracy (%)")
    return [Figure("fig3", title, caption, "points", *axes, tuple(point_cells))]
