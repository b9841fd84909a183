"""Figures 3, 6 and 7 of AdvPT's paper, and the curve over the budget, which it does not have."""

from __future__ import annotations

import itertools

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import Measured, caption, columns, panel, rows, two_coops
from advpt.jobs.methods import ADVPT, ZEROSHOT, table_name
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Figure, PointCell, Table, robust


def fig3(b: Builder) -> list[Exhibit]:
    """Clean against robust accuracy of CoOp and AdvPT."""
    s, points = b.setup, []
    for backbone, dataset, method in itertools.product(s.backbones, s.datasets, b.tuned_methods()):
        runs = b.main(method, dataset, backbone)
        x, y = Cell(runs, CLEAN), Cell(runs, robust(s.pgd))
        points.append(PointCell(s.column(backbone), table_name(method), s.column(dataset), x, y))
    text = caption(b, "fig3", coops=two_coops(b, s.datasets, s.backbones))
    title, axes = "Figure 3: trade-off of CoOp and AdvPT", ("clean accuracy (%)", "robust accuracy (%)")
    return [Figure("fig3", title, text, "points", *axes, tuple(points))]


def fig6(b: Builder) -> list[Exhibit]:
    """Prompts of one data set on its shifted versions."""
    s, points = b.setup, []

    def shifted(method: str, dataset: str, backbone: str) -> tuple[str, ...]:
        evaluation = Evaluation((f"{s.pgd}:transfer",))
        return b.evaluated(method, dataset, backbone, "shift", evaluation, source=s.source)

    measured = (Measured("clean", CLEAN, shifted), Measured("pgd40", robust(s.pgd), shifted))
    cells = rows(b, {ZEROSHOT: "shift", ADVPT: "shift"}, s.targets, measured)
    for row in cells:
        series = f"{row.method}, {'clean' if row.attack == 'clean' else s.pgd}"
        for at, (dataset, cell) in enumerate(zip(s.targets, row.cells)):
            if cell is not None:
                points.append(PointCell(row.backbone, series, s.column(dataset), float(at), cell))
    title, text = "Figure 6: domain shift", caption(b, "fig6", source=s.column(s.source))
    return [
        Figure("fig6", title, text, "bars", "", "accuracy (%)", tuple(points)),
        Table("fig6_table", f"{title}, in numbers", text, columns(s, s.targets), cells),
    ]


def fig7(b: Builder) -> list[Exhibit]:
    """The number of context vectors."""
    s, points = b.setup, []
    shown = (
        ("clean", CLEAN),
        (f"transfer {s.pgd}", robust(s.pgd)),
        (f"adaptive {s.adaptive}", robust(s.adaptive, "adaptive")),
    )
    evaluation = Evaluation((f"{s.pgd}:transfer", f"{s.adaptive}:adaptive"))
    for dataset, backbone, n in itertools.product(s.timed, s.timed_backbones, s.contexts):
        settings = [("TRAINER.ADVPT.N_CTX", str(n))]
        runs = tuple(b.job(ADVPT, dataset, backbone, seed, f"nctx{n}", evaluation, settings) for seed in s.seeds)
        for series, metric in shown:
            points.append(PointCell(panel(s, dataset, backbone), series, f"M = {n}", float(n), Cell(runs, metric)))
    text = caption(b, "fig7", most=max(s.contexts))
    title, axes = "Figure 7: number of context vectors", ("context vectors", "accuracy (%)")
    return [Figure("fig7", title, text, "lines", *axes, tuple(points))]


def curves(b: Builder) -> list[Exhibit]:
    """Not in the paper: accuracy over the budget, for attackers who know the learned prompt and who do not."""
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
    title, axes = "Accuracy over the attack's budget", ("eps (1/255)", "accuracy (%)")
    return [Figure("curves", title, text, "lines", *axes, tuple(points))]
