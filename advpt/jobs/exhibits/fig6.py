"""Figure 6: prompts of one data set on its shifted versions."""

from __future__ import annotations

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import columns, row
from advpt.jobs.methods import ADVPT, ZEROSHOT
from advpt.results.exhibit import CLEAN, Exhibit, Figure, PointCell, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, rows, point_cells = b.setup, [], []
    evaluation = Evaluation((f"{s.pgd}:transfer",))
    for backbone in s.backbones:
        runs = {
            ZEROSHOT: {d: b.evaluated(ZEROSHOT, d, backbone, "shift", evaluation) for d in s.targets},
            ADVPT: {d: b.evaluated(ADVPT, d, backbone, "shift", evaluation, source=s.source) for d in s.targets},
        }
        for attack, metric in (("clean", CLEAN), ("pgd40", robust(s.pgd))):
            for method in (ZEROSHOT, ADVPT):
                line = row(b, "shift", backbone, method, attack, metric, runs[method])
                rows.append(line)
                series = f"{line.method}, {'clean' if metric.protocol is None else s.pgd}"
                for at, (dataset, cell) in enumerate(zip(s.targets, line.cells)):
                    if cell is not None:
                        point_cells.append(PointCell(s.column(backbone), series, s.column(dataset), float(at), cell))
    caption = (
        f"Tuned on {s.column(s.source)} alone; heads have the classes of each target. PGD is {s.pgd}, made on each "
        f"target. {s.caption('fig6')}"
    )
    title = "Figure 6: domain shift"
    return [
        Figure("fig6", title, caption, "bars", "", "accuracy (%)", tuple(point_cells)),
        Table("fig6_table", f"{title}, in numbers", caption, columns(s, s.targets), tuple(rows)),
    ]
