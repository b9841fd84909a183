"""Table 3: AutoAttack, alone and behind DiffPure."""

from __future__ import annotations

from functools import partial

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import Measured, RunsOf, caption, columns, rows
from advpt.jobs.exhibits.defended import runs_behind_defenses
from advpt.jobs.methods import ADVPT, ZEROSHOT
from advpt.results.exhibit import Exhibit, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, defended = b.setup, runs_behind_defenses(b, "aa")
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
