"""Figures 3 to 7 of AdvPT's paper, and two that it does not have."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Literal

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import Measured, caption, columns, panel, rows, two_coops
from advpt.jobs.methods import ADVPT, ENCODER_TRAINERS, ZEROSHOT, table_name
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Figure, PointCell, Table, TimeCurve, robust


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


def fig4(b: Builder) -> list[Exhibit]:
    """PGD adversarial training over wall-clock."""
    return _clock_figure(b, "fig4", "Figure 4: PGD adversarial training and AdvPT over wall-clock", ("AdvTrain",))


def fig5(b: Builder) -> list[Exhibit]:
    """Fast adversarial training over wall-clock."""
    return _clock_figure(b, "fig5", "Figure 5: fast adversarial training and AdvPT over wall-clock", ("FastAT",))


def efficiency(b: Builder) -> list[Exhibit]:
    """Not in the paper: Figures 4 and 5 in one, with TRADES."""
    title, note = "Adversarial training and AdvPT over wall-clock", "Not in the paper, which has no TRADES. "
    return _clock_figure(b, "efficiency", title, ENCODER_TRAINERS, note)


def _clock_figure(b: Builder, name: str, title: str, trainers: Sequence[str], note: str = "") -> list[Exhibit]:
    """AdvPT and other trainers over wall-clock: a panel for clean and one for robust accuracy."""
    s, curves = b.setup, []
    evaluation = Evaluation((f"{s.pgd}:transfer",), subset=s.clock_subset)
    seeds = s.seeds[: s.clock_seeds or None]
    parts: tuple[Literal["clean", "robust"], ...] = ("clean", "robust")
    for dataset, backbone, part in itertools.product(s.timed, s.timed_backbones, parts):
        for trainer in (ADVPT, *trainers):
            settings = [("TRAIN.CURVE_FREQ", str(s.curve_every[trainer])), *s.clock_settings.get(trainer, ())]
            about = (trainer, dataset, backbone)
            runs = tuple(b.job(*about, seed, "clock", evaluation, settings) for seed in seeds)
            curves.append(TimeCurve(f"{panel(s, dataset, backbone)}, {part}", trainer, runs, part))
    text = caption(b, "clock", note=note)
    axes = ("wall-clock (s)", "accuracy (%)")
    return [Figure(name, title, text, "lines", *axes, time_curves=tuple(curves), log_x=True)]
