"""Table 2: PGD behind input defenses."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits import defended
from advpt.jobs.exhibits.common import columns, row
from advpt.jobs.methods import ADVPT, ZEROSHOT
from advpt.results.exhibit import Exhibit, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, rows = b.setup, []
    for backbone in s.backbones:
        runs = {t: {d: defended.evaluated(b, t, d, backbone, "pgd") for d in s.datasets} for t in (ZEROSHOT, ADVPT)}
        for each in s.defenses:
            metric = robust(s.pgd, defense=each.chain)
            rows += [row(b, "2", backbone, t, "pgd40", metric, runs[t], each) for t in (ZEROSHOT, ADVPT)]
    listed = ", ".join(f"{each.name} is {each.chain}" for each in s.defenses)
    caption = (
        f"PGD is {s.pgd} against the undefended encoder; {listed}. The attacker does not know the defense, and "
        "nothing is clamped to the clean image. Costly defenses are evaluated on a part of the images. "
        f"{s.caption('table2')}"
    )
    return [Table("table2", "Table 2: behind input defenses", caption, columns(s, s.datasets), tuple(rows))]
