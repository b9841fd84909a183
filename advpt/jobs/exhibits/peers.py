"""Not in the paper: methods that tune prompts against attacks, for attackers who know the prompts and who do not."""

from __future__ import annotations

import itertools

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import NO_DEFENSE, caption, columns, panel, recipe_facts
from advpt.jobs.methods import ADVPT, COCOOP, COOP, PEERS, ZEROSHOT, table_name
from advpt.jobs.plan import Pairs
from advpt.results.exhibit import CLEAN, Cell, Exhibit, Figure, PointCell, Table, TableRow, robust

SHOTS = 16


def exhibits(b: Builder) -> list[Exhibit]:
    s, rows, points, text = b.setup, [], [], ""
    attack, bank = s.peers.attack, s.bank if b.variant.as_published else s.peers.bank
    evaluation = Evaluation((f"{bank}:transfer", f"{attack}:transfer", f"{attack}:adaptive"))
    measured = (CLEAN, robust(bank), robust(attack), robust(attack, "adaptive"))
    for backbone in s.peers.backbones[:1]:
        runs = {method: [_runs(b, method, d, backbone, evaluation) for d in s.timed] for method in PEERS}
        for metric, method in itertools.product(measured, PEERS):
            names = (s.column(backbone), table_name(method), NO_DEFENSE, metric.attack or "clean")
            cells = tuple(Cell(ids, metric) for ids in runs[method])
            rows.append(TableRow(*names, metric.protocol or "-", cells))
        for (i, dataset), metric, method in itertools.product(enumerate(s.timed), measured[2:], PEERS):
            place = f"{panel(s, dataset, backbone)}, {metric.protocol}"
            x, y = Cell(runs[method][i], CLEAN), Cell(runs[method][i], metric)
            points.append(PointCell(place, table_name(method), "", x, y))
        text = _caption(b, bank, backbone)
    name, title = "peers", "AdvPT and its peers"
    if b.variant.as_published:
        name, title = "peers_as_published", "AdvPT and its peers, each by its own recipe"
    axes = ("clean accuracy (%)", f"accuracy under {attack} (%)")
    return [
        Table(name, title, text, columns(s, s.timed), tuple(rows)),
        Figure(f"{name}_figure", f"{title}: trade-off", text, "points", *axes, tuple(points)),
    ]


def _runs(b: Builder, method: str, dataset: str, backbone: str, evaluation: Evaluation) -> tuple[str, ...]:
    settings, shots = _settings(b, method), -1 if method == ZEROSHOT else SHOTS
    seeds = b.seeds(method, b.setup.peers.seeds)
    return tuple(b.job(method, dataset, backbone, seed, "peers", evaluation, settings, shots=shots) for seed in seeds)


def _settings(b: Builder, method: str) -> Pairs:
    """Of a run in the comparison: budget, images and epochs are those of all; none of a run that has its own published
    recipe."""
    p = b.setup.peers
    if b.variant.as_published or method == ZEROSHOT:
        return ()
    node = f"TRAINER.{method.upper()}"
    words = [(f"{node}.CTX_INIT", p.words)] if p.words else []
    rate = [("OPTIM.LR", p.rates[method])] if method in p.rates else []
    training = {
        ADVPT: [("BANK.ATTACK", p.bank)],
        COOP: [(f"{node}.CLEAN_BANK", "True"), (f"{node}.PREC", "fp32")],
        COCOOP: [(f"{node}.PREC", "fp32")],
    }
    attack = training[method] if method in training else [(f"{node}.ATTACK", p.training_attacks[method])]
    return (*p.settings, *words, *rate, *attack)


def _caption(b: Builder, bank: str, backbone: str) -> str:
    budget = b.setup.caption("peers")
    if b.variant.as_published:
        recipes = []
        for dataset, method in itertools.product(b.setup.timed[:1], PEERS):
            if method != ZEROSHOT:
                facts = recipe_facts(method, b.values(method, backbone, dataset))
                recipes.append(f"{method}: " + ", ".join(f"{name} {value}" for name, value in facts.items()))
        budget = caption(b, "peers_as_published", recipes="; ".join(recipes))
    return caption(b, "peers", shots=SHOTS, bank=bank, budget=budget)
