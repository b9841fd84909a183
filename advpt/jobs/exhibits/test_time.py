"""Defenses at test time, without training: clean, and under attackers who do not know them, who guess the labels, and
who know all of it. Not in AdvPT's paper.

Zero-shot CLIP with the hand-written prompt. One run for each budget and group of defenses: those of a group share the
views of an image, and all share banks.
"""

from __future__ import annotations

import itertools

from advpt.attacks import parse as parse_attack
from advpt.defenses import parse as parse_defense
from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import NO_DEFENSE, caption
from advpt.jobs.methods import ZEROSHOT
from advpt.jobs.recipes import quoted
from advpt.jobs.setup import TestTimeBudget
from advpt.results.exhibit import DefenseRow, DefenseTable, Exhibit, PartTable
from advpt.results.published import PaperCell, defense_cell
from advpt.test_time import parse as parse_test_time

PROTOCOLS = ("static", "pseudo", "adaptive")


def exhibits(b: Builder) -> list[Exhibit]:
    s, made = b.setup.test_time, list[Exhibit]()
    for dataset, backbone, budget in itertools.product(s.datasets, s.backbones, s.budgets):
        attack = parse_attack(budget.attack)
        names = (b.setup.column(backbone), b.setup.column(dataset))
        name = f"test_time_{dataset}_{backbone}_{attack.eps:g}"
        title = f"Defenses at test time: {', '.join(names)}, {attack.eps:g}/255"
        text = caption(b, "test_time", attack=attack, source=_source(budget, backbone))
        rows = _rows(b, dataset, backbone, budget)
        table = DefenseTable(name, title, text, *names, budget.attack, s.subset, s.some, rows)
        parts = caption(b, "test_time_parts", attack=attack)
        made += [table, PartTable(f"{name}_parts", f"{title}: parts of the adaptive attacks", parts, table)]
    return made


def _source(budget: TestTimeBudget, backbone: str) -> str:
    """What stands beside our numbers."""
    source = budget.sources.get(backbone)
    return f"Published: {source}, {budget.published}, made on plain CLIP with the true label." if source else ""


def _rows(b: Builder, dataset: str, backbone: str, budget: TestTimeBudget) -> tuple[DefenseRow, ...]:
    """No defense, then all defenses in the order of their groups, each with the run that measures it."""
    s, rows = b.setup.test_time, list[DefenseRow]()
    for group, defenses in s.defenses.items():
        inputs = s.inputs if group == s.inputs_with else ()
        settings = (("EVAL.TEST_TIME", quoted(*defenses)), ("EVAL.ADAPTIVE_SUBSET", str(s.some)), *s.settings)
        attacks = tuple(f"{budget.attack}:{protocol}" for protocol in PROTOCOLS)
        evaluation = Evaluation(attacks, inputs, s.subset)
        seed = b.setup.seeds[0]
        run = b.job(ZEROSHOT, dataset, backbone, seed, f"test_time-{group}", evaluation, settings)
        recorded = {name: str(parse_test_time(name)) for name in defenses}
        recorded |= {name: str(parse_defense(name)) for name in inputs}
        recorded = recorded if rows else {NO_DEFENSE: "", **recorded}
        for name, stages in recorded.items():
            rows.append(DefenseRow(name, stages, run, *_published(b, dataset, backbone, budget, name)))
    return tuple(rows)


def _published(
    b: Builder, dataset: str, backbone: str, budget: TestTimeBudget, name: str
) -> tuple[PaperCell | None, PaperCell | None]:
    """Where the clean and the static accuracy of a defense are printed."""
    method, source = b.setup.test_time.published.get(name), budget.sources.get(backbone)
    if not method or not source:
        return None, None
    about = (source, b.setup.column(backbone), b.setup.column(dataset), method)
    return defense_cell(*about), defense_cell(*about, budget.published, f"{parse_attack(budget.attack).eps:g}")
