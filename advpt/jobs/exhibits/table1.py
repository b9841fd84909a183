"""Table 1: clean and robust accuracy of zero-shot CLIP and AdvPT."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.common import Measured, caption, columns, rows
from advpt.jobs.methods import ADVPT, ZEROSHOT
from advpt.results.exhibit import CLEAN, Exhibit, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s = b.setup
    measured = (
        Measured("clean", CLEAN, b.main),
        Measured("pgd40", robust(s.pgd), b.main),
        Measured("rap", robust(s.rap), b.main),
        Measured("pgd", robust(s.adaptive, "adaptive"), b.main),
    )
    cells = rows(b, {ZEROSHOT: "1", ADVPT: "1"}, s.datasets, measured)
    return [Table("table1", "Table 1: clean and robust accuracy", caption(b, "table1"), columns(s, s.datasets), cells)]
