"""Made-up figures, and where their words lie."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from matplotlib.text import Annotation, Text

from advpt.evaluation.intervals import Runs
from advpt.results.exhibit import Condition, Figure, Table, TableRow
from advpt.results.figures import DrawnPoint
from advpt.results.values import FilledTable, Value

SETS = ("Flowers", "Pets", "Food101", "SUN397", "DTD", "EuroSAT", "UCF101", "ImageNet")
METHODS = ("vanilla", "CoOp", "CoOp, clean bank", "AdvPT")


def number(percent: float, *, seeds: Sequence[int] = (1, 2, 3), n: int = 500, trained: bool = True) -> Value:
    """A mean over seeds."""
    runs = Runs({seed: percent + 0.3 * (place % 2) for place, seed in enumerate(seeds)}, {}, n, trained)
    return Value("value", runs, tuple(f"{seed:064d}" for seed in seeds))


def point(panel: str, series: str, label: str, x: float, y: float, wide: float = 0.0) -> DrawnPoint:
    return DrawnPoint(panel, series, label, (x, x - wide, x + wide), number(y), ())


def figure(kind: str, x: str = "clean accuracy (%)", *, log_x: bool = False) -> Figure:
    return Figure("figure", "A figure", "", kind, x, "accuracy (%)", log_x=log_x)


def trade_off(
    sets: Sequence[str] = SETS, methods: Sequence[str] = METHODS, panels=("ViT-B/16", "ViT-L/14"), spread=1.0
):
    """Points as Figure 3 has them; ``spread`` 0: all in one place."""
    draw, made = random.Random(3), []
    for panel, name in itertools.product(panels, sets):
        x, y = 70 + spread * draw.uniform(-25, 22), 20 + spread * draw.uniform(-17, 10)
        for place, method in enumerate(methods):
            more = spread * place
            at = (min(98.0, x + more * draw.uniform(0, 3)), y + more * draw.uniform(0, 8))
            made.append(point(panel, method, name, *at, wide=1.2))
    return made


def filled(methods, columns, *, defenses=("",), conditions=True, backbones=("",), word: str = "") -> FilledTable:
    """A table of made-up numbers, by attacks (``columns``: protocol and attack) or by data sets (their names).
    ``word``: what stands in the last cell."""
    heads = {f"{attack} {protocol}".strip(): Condition(protocol, attack) for protocol, attack in columns}
    names = tuple(heads) if conditions else SETS[:3]
    about = [("", "")] if conditions else columns
    rows = tuple(
        TableRow(backbone, method, defense, attack, protocol)
        for backbone, (protocol, attack), defense, method in itertools.product(backbones, about, defenses, methods)
    )
    values = [[number(20 + (7 * i + 13 * j) % 60) for j in range(len(names))] for i in range(len(rows))]
    if word:
        values[-1][-1] = Value(word)
    return FilledTable(Table("made", "Made up", "", names, rows, conditions=heads if conditions else {}), values)


def texts(canvas) -> Iterator[Text]:
    """Every text of a figure that is drawn."""
    for axis in canvas.axes:
        if not axis.get_visible():
            continue
        yield from (axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts)
        for side in (axis.xaxis, axis.yaxis):
            low, high = sorted(side.get_view_interval())
            for tick in (*side.get_major_ticks(), *side.get_minor_ticks()):
                if low <= tick.get_loc() <= high:
                    yield tick.label1
    for legend in canvas.legends:
        yield from legend.get_texts()


def faults(canvas) -> list[str]:
    """Texts that cover each other or reach over the edge."""
    renderer = canvas.canvas.get_renderer()
    shown = [t for t in texts(canvas) if t.get_visible() and t.get_text().strip()]
    for text in shown:
        if isinstance(text, Annotation):
            text.update_positions(renderer)
    boxes = [(t.get_text(), Text.get_window_extent(t, renderer)) for t in shown]  # of an annotation without its line
    frame = canvas.bbox
    found = [
        f"{one!r} covers {other!r}"
        for (one, a), (other, b) in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
    ]
    edge = 2
    return found + [
        f"{text!r} leaves the figure"
        for text, b in boxes
        if b.x0 < -edge or b.y0 < -edge or b.x1 > frame.x1 + edge or b.y1 > frame.y1 + edge
    ]


def legend_of(canvas) -> list[str]:
    """The entries of a figure's legend."""
    return [text.get_text() for legend in canvas.legends for text in legend.get_texts()]
