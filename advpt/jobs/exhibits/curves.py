"""Not in the paper: accuracy over the budget, for attackers who know the learned prompt and who do not."""

from __future__ import annotations

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import TRANSFER, two_coops
from advpt.jobs.methods import ZEROSHOT, table_name
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Figure, PointCell, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, point_cells = b.setup, []
    specs = [f"pgd{s.budget_steps}-ce@{eps}" for eps in s.budgets]
    evaluation = Evaluation(tuple(f"{spec}:{protocol}" for protocol in ("transfer", "adaptive") for spec in specs))
    for dataset in s.timed:
        for backbone in s.timed_backbones:
            panel = f"{s.column(dataset)}, {s.column(backbone)}"
            for method in b.tuned_methods():
                runs = b.evaluated(method, dataset, backbone, "budgets", evaluation)
                for protocol in ("transfer", "adaptive"):
                    if method == ZEROSHOT and protocol == "transfer":
                        continue  # its hand-written prompt is all there is to know
                    series = f"{table_name(method)}, {protocol}"
                    point_cells.append(PointCell(panel, series, "clean", 0.0, Cell(runs, CLEAN)))
                    for eps, spec in zip(s.budgets, specs):
                        point_cells.append(
                            PointCell(panel, series, f"{eps}/255", float(eps), Cell(runs, robust(spec, protocol)))
                        )
    caption = (
        f"PGD of {s.budget_steps} steps on the cross-entropy, over its budget; {TRANSFER}. Not in the paper. "
        f"{two_coops(b, s.timed, s.timed_backbones)} {s.caption()}"
    )
    title, axes = "Accuracy over the attack's budget", ("eps (1/255)", "accuracy (%)")
    return [Figure("curves", title, caption, "lines", *axes, tuple(point_cells))]
