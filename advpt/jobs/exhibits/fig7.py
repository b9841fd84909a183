"""Figure 7: the number of context vectors."""

from __future__ import annotations

import itertools

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import caption, panel
from advpt.jobs.methods import ADVPT
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Figure, PointCell, robust


def exhibits(b: Builder) -> list[Exhibit]:
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
    title, axes = "Figure 7: number of context vectors", ("context vectors (number)", "accuracy (%)")
    return [Figure("fig7", title, text, "lines", *axes, tuple(points))]
