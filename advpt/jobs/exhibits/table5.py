"""Table 5: nearest words of the learned vectors."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.methods import ADVPT
from advpt.results.exhibit import Exhibit, WordColumn, WordTable


def exhibits(b: Builder) -> list[Exhibit]:
    s = b.setup
    columns = tuple(
        WordColumn(s.column(d), s.column(backbone), b.main(ADVPT, d, backbone)[0])
        for backbone in s.backbones
        for d in s.datasets
    )
    caption = (
        f"Euclidean distance to the token table of the same backbone, seed {s.seeds[0]}. The paper does not say how "
        "it chose its five words, nor for which backbone; here they are the five smallest distances between a vector "
        "and its nearest word, and each vector's own nearest word. Beside them the words of the same vectors before "
        f"tuning: a vector near zero is close to any small token. {s.caption('table5')}"
    )
    return [WordTable("table5", "Table 5: nearest words of the learned vectors", caption, columns)]
