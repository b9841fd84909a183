"""Table 3: AutoAttack, alone and behind DiffPure."""

from __future__ import annotations

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits import defended
from advpt.jobs.exhibits.common import TRANSFER, UNDEFENDED, columns, row
from advpt.jobs.methods import ADVPT, ZEROSHOT
from advpt.results.exhibit import Exhibit, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, rows = b.setup, []
    undefended = Evaluation((f"{s.aa}:transfer", f"{s.aa_adaptive}:adaptive"))
    for backbone in s.backbones:
        for behind in (UNDEFENDED, defended.diffpure(s)):
            metric = robust(s.aa, defense=behind.chain) if behind.chain else robust(s.aa)
            for t in (ZEROSHOT, ADVPT):
                runs = {
                    d: defended.evaluated(b, t, d, backbone, "aa")
                    if behind.chain or s.together
                    else b.evaluated(t, d, backbone, "autoattack", undefended)
                    for d in s.datasets
                }
                rows.append(row(b, "3", backbone, t, "autoattack", metric, runs, behind))
        adaptive = robust(s.aa_adaptive, "adaptive")
        for t in (ZEROSHOT, ADVPT):
            runs = {
                d: b.main(t, d, backbone) if s.together else b.evaluated(t, d, backbone, "autoattack", undefended)
                for d in s.datasets
            }
            rows.append(row(b, "3", backbone, t, "autoattack", adaptive, runs))
    caption = (
        f"AutoAttack is {s.aa}, the adaptive attacker {s.aa_adaptive}; {TRANSFER}. AutoAttack leaves images alone "
        "that the attacked prompt gets wrong: their share, and the accuracy on the others, stand below each number. "
        f"{s.caption('table3')}"
    )
    return [Table("table3", "Table 3: AutoAttack", caption, columns(s, s.datasets), tuple(rows))]
