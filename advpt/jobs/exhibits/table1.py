"""Table 1: clean and robust accuracy of zero-shot CLIP and AdvPT."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.common import TRANSFER, columns, row
from advpt.jobs.methods import ADVPT, ZEROSHOT
from advpt.results.exhibit import CLEAN, Exhibit, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, rows = b.setup, []
    measured = (
        ("clean", CLEAN),
        ("pgd40", robust(s.pgd)),
        ("rap", robust(s.rap)),
        ("pgd", robust(s.adaptive, "adaptive")),
    )
    for backbone in s.backbones:
        runs = {t: {d: b.main(t, d, backbone) for d in s.datasets} for t in (ZEROSHOT, ADVPT)}
        for attack, metric in measured:
            rows += [row(b, "1", backbone, t, attack, metric, runs[t]) for t in (ZEROSHOT, ADVPT)]
    caption = f"PGD is {s.pgd}, RAP {s.rap}; {TRANSFER}. {s.caption('table1')}"
    return [Table("table1", "Table 1: clean and robust accuracy", caption, columns(s, s.datasets), tuple(rows))]
