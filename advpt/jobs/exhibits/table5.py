"""Table 5: nearest words of the learned vectors."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.common import caption
from advpt.jobs.methods import ADVPT
from advpt.results.exhibit import Exhibit, WordColumn, WordTable


def exhibits(b: Builder) -> list[Exhibit]:
    s = b.setup
    words = tuple(
        WordColumn(s.column(dataset), s.column(backbone), b.main(ADVPT, dataset, backbone)[0])
        for backbone in s.backbones
        for dataset in s.datasets
    )
    title = "Table 5: nearest words of the learned vectors"
    return [WordTable("table5", title, caption(b, "table5"), words)]
