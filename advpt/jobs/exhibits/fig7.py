"""Figure 7: the number of context vectors."""

from __future__ import annotations

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.methods import ADVPT
from advpt.results.layout import CLEAN, Cell, Exhibit, Figure, Mark, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, marks = b.setup, []
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
                marks += [Mark(panel, series, f"M = {n}", float(n), Cell(runs, which)) for series, which in shown]
    caption = f"AdvPT with 1 to {max(s.contexts)} context vectors. {s.caption()}"
    title, axes = "Figure 7: number of context vectors", ("context vectors", "accuracy (%)")
    return [Figure("fig7", title, caption, "lines", *axes, tuple(marks))]
