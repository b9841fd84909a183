"""Table 4: the linear probe."""

from __future__ import annotations

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import columns, row
from advpt.jobs.methods import ADVPT, PROBE
from advpt.results.exhibit import CLEAN, Exhibit, Table, robust


def exhibits(b: Builder) -> list[Exhibit]:
    s, rows = b.setup, []
    evaluation = Evaluation((f"{s.pgd}:transfer", f"{s.adaptive}:adaptive"))
    measured = (("clean", CLEAN), ("pgd40", robust(s.pgd)), ("pgd", robust(s.adaptive, "adaptive")))
    for backbone in s.backbones:
        probes = {d: (b.job(PROBE, d, backbone, s.seeds[0], "main", evaluation),) for d in s.probed}
        learned = {d: b.main(ADVPT, d, backbone) for d in s.probed}
        for attack, metric in measured:
            rows.append(row(b, "4", backbone, PROBE, attack, metric, probes))
            rows.append(row(b, "1", backbone, ADVPT, attack, metric, learned))
    caption = (
        f"Logistic regression on all training images; PGD is {s.pgd} on the very images of Table 1 (the paper does "
        "not say which PGD), the adaptive attacker goes through the head or the prompt. AdvPT's published numbers "
        f"are Table 1's. {s.caption('table4')}"
    )
    return [Table("table4", "Table 4: linear probe", caption, columns(s, s.probed), tuple(rows))]
