"""Figure 7: the number of context vectors."""

from __future__ import annotations

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.methods import ADVPT
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Figure, PointCell, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, point_cells = b.setup, []
    shown = (
        ("clean", CLEAN),
        (f"transfer {s.pgd}", robust(s.pgd)),
        (f"adaptive {s.adaptive}", robust(s.adaptive, "adaptive")),
    )
    evaluation = Evaluation((f"{s.pgd}:transfer", f"{s.adaptive}:adaptive"))
    for dataset in s.timed:
        for backbone in s.timed_backbones:
            panel = f"{s.column(dataset)}, {s.column(backbone)}"
            for n in s.contexts:
                settings = [("TRAINER.ADVPT.N_CTX", str(n))]
                runs = tuple(
                    b.job(ADVPT, dataset, backbone, seed, f"nctx{n}", evaluation, settings) for seed in s.seeds
                )
                point_cells += [
                    PointCell(panel, series, f"M = {n}", float(n), Cell(runs, metric)) for series, metric in shown
                ]
    caption = f"AdvPT with 1 to {max(s.contexts)} context vectors. {s.caption()}"
    title, axes = "Figure 7: number of context vectors", ("context vectors", "accuracy (%)")
    return [Figure("fig7", title, caption, "lines", *axes, tuple(point_cells))]
