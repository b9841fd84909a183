"""Tables 1 to 5 of AdvPT's paper."""

from __future__ import annotations

from functools import partial

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import Measured, RunsOf, caption, columns, rows
from advpt.jobs.methods import ADVPT, PROBE, ZEROSHOT
from advpt.results.exhibit import CLEAN, Exhibit, Table, WordColumn, WordTable, robust


def table1(b: Builder) -> list[Exhibit]:
    """Clean and robust accuracy of zero-shot CLIP and AdvPT."""
    s = b.setup
    measured = (
        Measured("clean", CLEAN, b.main),
        Measured("pgd40", robust(s.pgd), b.main),
        Measured("rap", robust(s.rap), b.main),
        Measured("pgd", robust(s.adaptive, "adaptive"), b.main),
    )
    cells = rows(b, {ZEROSHOT: "1", ADVPT: "1"}, s.datasets, measured)
    return [Table("table1", "Table 1: clean and robust accuracy", caption(b, "table1"), columns(s, s.datasets), cells)]


def _defended(b: Builder, attack: str) -> RunsOf:
    """Runs behind input defenses under PGD (Table 2) or AutoAttack (Table 3); of one for both where the setup has them
    together. ``attack``: ``pgd`` or ``aa``."""
    s, purpose = b.setup, "defended"
    chains = tuple(each.chain for each in s.defenses)
    if s.together:
        evaluation = Evaluation((f"{s.pgd}:transfer", f"{s.aa}:transfer"), chains, s.defended_subset)
    elif attack == "pgd":
        evaluation = Evaluation((f"{s.pgd}:transfer",), chains)
    else:
        evaluation, purpose = Evaluation((f"{s.aa}:transfer",), (s.defense("diffpure").chain,)), "diffpure"
    return partial(b.evaluated, purpose=purpose, evaluation=evaluation)


def table2(b: Builder) -> list[Exhibit]:
    """PGD behind input defenses."""
    s, defended = b.setup, _defended(b, "pgd")
    measured = [Measured("pgd40", robust(s.pgd, defense=each.chain), defended, each) for each in s.defenses]
    cells = rows(b, {ZEROSHOT: "2", ADVPT: "2"}, s.datasets, measured)
    text = caption(b, "table2", listed=", ".join(f"{each.name} is {each.chain}" for each in s.defenses))
    return [Table("table2", "Table 2: behind input defenses", text, columns(s, s.datasets), cells)]


def table3(b: Builder) -> list[Exhibit]:
    """AutoAttack, alone and behind DiffPure."""
    s, defended = b.setup, _defended(b, "aa")
    evaluation = Evaluation((f"{s.aa}:transfer", f"{s.aa_adaptive}:adaptive"))
    alone: RunsOf = partial(b.evaluated, purpose="autoattack", evaluation=evaluation)
    diffpure, adaptive = s.defense("diffpure"), robust(s.aa_adaptive, "adaptive")
    measured = (
        Measured("autoattack", robust(s.aa), defended if s.together else alone),
        Measured("autoattack", robust(s.aa, defense=diffpure.chain), defended, diffpure),
        Measured("autoattack", adaptive, b.main if s.together else alone),
    )
    cells = rows(b, {ZEROSHOT: "3", ADVPT: "3"}, s.datasets, measured)
    return [Table("table3", "Table 3: AutoAttack", caption(b, "table3"), columns(s, s.datasets), cells)]


def table4(b: Builder) -> list[Exhibit]:
    """The linear probe."""
    s = b.setup

    def runs(method: str, dataset: str, backbone: str) -> tuple[str, ...]:
        if method == ADVPT:
            return b.main(method, dataset, backbone)
        evaluation = Evaluation((f"{s.pgd}:transfer", f"{s.adaptive}:adaptive"))
        return (b.job(method, dataset, backbone, s.seeds[0], "main", evaluation),)

    measured = (
        Measured("clean", CLEAN, runs),
        Measured("pgd40", robust(s.pgd), runs),
        Measured("pgd", robust(s.adaptive, "adaptive"), runs),
    )
    cells = rows(b, {PROBE: "4", ADVPT: "1"}, s.probed, measured)
    return [Table("table4", "Table 4: linear probe", caption(b, "table4"), columns(s, s.probed), cells)]


def table5(b: Builder) -> list[Exhibit]:
    """Nearest words of the learned vectors."""
    s = b.setup
    words = tuple(
        WordColumn(s.column(dataset), s.column(backbone), b.main(ADVPT, dataset, backbone)[0])
        for backbone in s.backbones
        for dataset in s.datasets
    )
    title = "Table 5: nearest words of the learned vectors"
    return [WordTable("table5", title, caption(b, "table5"), words)]
