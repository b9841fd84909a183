"""The runs behind input defenses that Tables 2 and 3 share."""

from __future__ import annotations

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.setup import InputDefense, ReproductionSetup


def diffpure(setup: ReproductionSetup) -> InputDefense:
    """The defense of Table 3."""
    return next(each for each in setup.defenses if each.name == "diffpure")


def evaluated(b: Builder, method: str, dataset: str, backbone: str, attack: str) -> tuple[str, ...]:
    """Ids of the runs under PGD (Table 2) or AutoAttack (Table 3); of one for both where the setup has them together.
    ``attack``: ``pgd`` or ``aa``."""
    s = b.setup
    chains = tuple(each.chain for each in s.defenses)
    if s.together:
        evaluation = Evaluation((f"{s.pgd}:transfer", f"{s.aa}:transfer"), chains, s.defended_subset)
        return b.evaluated(method, dataset, backbone, "defended", evaluation)
    if attack == "pgd":
        return b.evaluated(method, dataset, backbone, "defended", Evaluation((f"{s.pgd}:transfer",), chains))
    evaluation = Evaluation((f"{s.aa}:transfer",), (diffpure(s).chain,))
    return b.evaluated(method, dataset, backbone, "diffpure", evaluation)
