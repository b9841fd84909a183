"""Not in the paper: accuracy over the budget, for attackers who know the learned prompt and who do not."""

from __future__ import annotations

import itertools

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import caption, panel, two_coops
from advpt.jobs.methods import ZEROSHOT, table_name
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Figure, PointCell, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, points = b.setup, []
    specs = [f"pgd{s.budget_steps}-ce@{eps}" for eps in s.budgets]
    evaluation = Evaluation(tuple(f"{spec}:{protocol}" for protocol in ("transfer", "adaptive") for spec in specs))
    for dataset, backbone, method in itertools.product(s.timed, s.timed_backbones, b.tuned_methods()):
        runs, place = b.evaluated(method, dataset, backbone, "budgets", evaluation), panel(s, dataset, backbone)
        for protocol in ("transfer", "adaptive"):
            if method == ZEROSHOT and protocol == "transfer":
                continue  # its hand-written prompt is all there is to know
            series = f"{table_name(method)}, {protocol}"
            points.append(PointCell(place, series, "clean", 0.0, Cell(runs, CLEAN)))
            for eps, spec in zip(s.budgets, specs):
                cell = Cell(runs, robust(spec, protocol))
                points.append(PointCell(place, series, f"{eps}/255", float(eps), cell))
    text = caption(b, "curves", coops=two_coops(b, s.timed, s.timed_backbones))
    title, axes = "Accuracy over the attack's budget", ("budget eps (1/255)", "accuracy (%)")
    return [Figure("curves", title, text, "lines", *axes, tuple(points))]
