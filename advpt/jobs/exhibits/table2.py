"""Table 2: PGD behind input defenses."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.common import Measured, caption, columns, rows
from advpt.jobs.exhibits.defended import runs_behind_defenses
from advpt.jobs.methods import ADVPT, ZEROSHOT
from advpt.results.exhibit import Exhibit, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, defended = b.setup, runs_behind_defenses(b, "pgd")
    measured = [Measured("pgd40", robust(s.pgd, defense=each.chain), defended, each) for each in s.defenses]
    cells = rows(b, {ZEROSHOT: "2", ADVPT: "2"}, s.datasets, measured)
    text = caption(b, "table2", listed=", ".join(f"{each.name} is {each.chain}" for each in s.defenses))
    return [Table("table2", "Table 2: behind input defenses", text, columns(s, s.datasets), cells)]
