"""The comparison with TAPT's paper: its designs before and after test-time tuning, under attackers who know of it and
who do not, beside the published Tables 1 and 2. Not in AdvPT's paper.

For each design: prompts tuned on attacked images, their cleanly tuned twins, and an evaluation on every data set. The
evaluation on the data set that the prompts were tuned on makes the statistics that the others read.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from advpt.data import catalog
from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import caption, columns
from advpt.jobs.methods import TAPT_DESIGNS
from advpt.jobs.setup import TaptSetup
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Metric, Table, TableRow, robust
from advpt.results.published import PaperCell

DEFENSES = ("tapt", "tapt:constructed")


def exhibits(b: Builder) -> list[Exhibit]:
    s, column, rows = b.setup.tapt, b.setup.column, []
    for backbone in s.backbones if s.datasets else ():
        runs = {design: _evaluated(b, backbone, *trainers) for design, *trainers in TAPT_DESIGNS}
        for (attack, metric, published), design in itertools.product(_measured(s), runs):
            for method, defense in ((f"APT-{design}", ""), *((f"TAPT-{design}", d) for d in DEFENSES)):
                if defense.endswith("constructed") and metric.protocol in ("tuned", "adaptive"):
                    continue
                number, cells = dataclasses.replace(metric, defense=defense), []
                table = "tapt 2" if attack == "clean" else "tapt 1"
                for dataset in s.datasets:
                    key = PaperCell(table, column(backbone), column(dataset), method, "none", attack)
                    cells.append(Cell((runs[design][dataset],), number, key if published else None))
                about = (column(backbone), method, defense or "none", attack, metric.protocol or "-")
                rows.append(TableRow(*about, tuple(cells)))
    attacks = ", ".join(f"{name} is {attack}" for name, attack in s.attacks.items())
    text = caption(b, "tapt", attacks=attacks, statistics=_statistics_text(b))
    return [Table("tapt", "TAPT: tuning at test time", text, columns(b.setup, s.datasets), tuple(rows))]


def _statistics_text(b: Builder) -> str:
    """What the statistics are taken over, and what the paper takes."""
    s, facts = b.setup.tapt, catalog.get(b.setup.tapt.source)
    name = "tapt_all_statistics" if b.variant.all_statistics else "tapt_statistics"
    counts = {"part": s.shots * facts.classes, "whole": facts.counts[0]}
    return caption(b, name, source=b.setup.column(s.source), **counts)


def _measured(s: TaptSetup) -> Iterator[tuple[str, Metric, bool]]:
    """The paper's name of an attack, which number it is, and whether the paper has it."""
    yield "clean", CLEAN, True
    for name, attack in s.attacks.items():
        yield name, robust(attack, "static"), True
    yield "pgd", robust(s.tuned, "tuned"), False
    yield "pgd", robust(s.adaptive, "adaptive"), False


def _evaluated(b: Builder, backbone: str, trained_by: str, trainer: str) -> dict[str, str]:
    """By data set, the run that evaluates a design."""
    s, seed = b.setup.tapt, b.setup.seeds[0]  # the paper has one

    def prompts(purpose: str, *more: tuple[str, str]) -> str:
        context = [(f"TRAINER.{trained_by.upper()}.{leaf}", value) for leaf, value in s.context]
        settings = [*s.pretraining, *context, *more]
        evaluation = Evaluation(subset=s.subset)
        return b.job(trained_by, s.source, backbone, seed, purpose, evaluation, settings, shots=s.shots)

    defensive = prompts("defensive")
    clean = prompts("clean", (f"TRAINER.{trained_by.upper()}.LOSS", "clean"))
    attacks = [f"{attack}:static" for attack in s.attacks.values()]
    attacks += [f"{s.tuned}:tuned", f"{s.adaptive}:adaptive"]
    settings = [("TRAINER.TAPT.RESET_SOURCE", "('loaded','constructed')"), *s.settings]
    settings += [(f"TRAINER.TAPT.{leaf}", value) for leaf, value in s.context]
    if b.variant.all_statistics:
        settings += [("TRAINER.TAPT.ADV_STATISTICS", "all"), ("TRAINER.TAPT.CLEAN_STATISTICS", "all")]
    evaluation, ids = Evaluation(tuple(attacks), subset=s.subset), dict[str, str]()
    shots, runs = -1 if b.variant.all_statistics else s.shots, (("TRAINER.TAPT.CLEAN_RUN", clean),)
    for dataset in dict.fromkeys((s.source, *s.datasets)):
        after = tuple(ids.values())[:1]  # the source's, which makes the statistics
        about = (trainer, dataset, backbone, seed, "tuned", evaluation, settings)
        ids[dataset] = b.job(*about, shots=shots, model=defensive, runs=runs, after=after)
    return ids
