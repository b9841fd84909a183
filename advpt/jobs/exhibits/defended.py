"""The runs behind input defenses that Tables 2 and 3 share."""

from __future__ import annotations

from functools import partial

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import RunsOf


def runs_behind_defenses(b: Builder, attack: str) -> RunsOf:
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
