"""Tables 1 to 5 of AdvPT's paper."""

from __future__ import annotations

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import TRANSFER, Measured, columns, rows
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
    caption = f"PGD is {s.pgd}, RAP {s.rap}; {TRANSFER}. {s.caption('table1')}"
    cells = rows(b, {ZEROSHOT: "1", ADVPT: "1"}, s.datasets, measured)
    return [Table("table1", "Table 1: clean and robust accuracy", caption, columns(s, s.datasets), cells)]


def _defended(b: Builder, method: str, dataset: str, backbone: str, attack: str) -> tuple[str, ...]:
    """Ids of the runs behind input defenses under PGD (Table 2) or AutoAttack (Table 3); of one for both where the
    setup has them together. ``attack``: ``pgd`` or ``aa``."""
    s, purpose = b.setup, "defended"
    chains = tuple(each.chain for each in s.defenses)
    if s.together:
        evaluation = Evaluation((f"{s.pgd}:transfer", f"{s.aa}:transfer"), chains, s.defended_subset)
    elif attack == "pgd":
        evaluation = Evaluation((f"{s.pgd}:transfer",), chains)
    else:
        evaluation, purpose = Evaluation((f"{s.aa}:transfer",), (s.defense("diffpure").chain,)), "diffpure"
    return b.evaluated(method, dataset, backbone, purpose, evaluation)


def table2(b: Builder) -> list[Exhibit]:
    """PGD behind input defenses."""
    s = b.setup

    def defended(method: str, dataset: str, backbone: str) -> tuple[str, ...]:
        return _defended(b, method, dataset, backbone, "pgd")

    measured = [Measured("pgd40", robust(s.pgd, defense=each.chain), defended, each) for each in s.defenses]
    cells = rows(b, {ZEROSHOT: "2", ADVPT: "2"}, s.datasets, measured)
    listed = ", ".join(f"{each.name} is {each.chain}" for each in s.defenses)
    caption = (
        f"PGD is {s.pgd} against the undefended encoder; {listed}. The attacker does not know the defense, and "
        "nothing is clamped to the clean image. Costly defenses are evaluated on a part of the images. "
        f"{s.caption('table2')}"
    )
    return [Table("table2", "Table 2: behind input defenses", caption, columns(s, s.datasets), cells)]


def table3(b: Builder) -> list[Exhibit]:
    """AutoAttack, alone and behind DiffPure."""
    s = b.setup

    def defended(method: str, dataset: str, backbone: str) -> tuple[str, ...]:
        return _defended(b, method, dataset, backbone, "aa")

    def alone(method: str, dataset: str, backbone: str) -> tuple[str, ...]:
        evaluation = Evaluation((f"{s.aa}:transfer", f"{s.aa_adaptive}:adaptive"))
        return b.evaluated(method, dataset, backbone, "autoattack", evaluation)

    diffpure, adaptive = s.defense("diffpure"), robust(s.aa_adaptive, "adaptive")
    measured = (
        Measured("autoattack", robust(s.aa), defended if s.together else alone),
        Measured("autoattack", robust(s.aa, defense=diffpure.chain), defended, diffpure),
        Measured("autoattack", adaptive, b.main if s.together else alone),
    )
    cells = rows(b, {ZEROSHOT: "3", ADVPT: "3"}, s.datasets, measured)
    caption = (
        f"AutoAttack is {s.aa}, the adaptive attacker {s.aa_adaptive}; {TRANSFER}. AutoAttack leaves images alone "
        "that the attacked prompt gets wrong: their share, and the accuracy on the others, stand below each number. "
        f"{s.caption('table3')}"
    )
    return [Table("table3", "Table 3: AutoAttack", caption, columns(s, s.datasets), cells)]


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
    caption = (
        f"Logistic regression on all training images; PGD is {s.pgd} on the very images of Table 1 (the paper does "
        "not say which PGD), the adaptive attacker goes through the head or the prompt. AdvPT's published numbers "
        f"are Table 1's. {s.caption('table4')}"
    )
    return [Table("table4", "Table 4: linear probe", caption, columns(s, s.probed), cells)]


def table5(b: Builder) -> list[Exhibit]:
    """Nearest words of the learned vectors."""
    s = b.setup
    words = tuple(
        WordColumn(s.column(dataset), s.column(backbone), b.main(ADVPT, dataset, backbone)[0])
        for backbone in s.backbones
        for dataset in s.datasets
    )
    caption = (
        f"Euclidean distance to the token table of the same backbone, seed {s.seeds[0]}. The paper does not say how "
        "it chose its five words, nor for which backbone; here they are the five smallest distances between a vector "
        "and its nearest word, and each vector's own nearest word. Beside them the words of the same vectors before "
        f"tuning: a vector near zero is close to any small token. {s.caption('table5')}"
    )
    return [WordTable("table5", "Table 5: nearest words of the learned vectors", caption, words)]
