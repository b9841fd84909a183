"""Table 4: the linear probe."""

from __future__ import annotations

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import Measured, caption, columns, rows
from advpt.jobs.methods import ADVPT, PROBE
from advpt.results.exhibit import CLEAN, Exhibit, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
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
