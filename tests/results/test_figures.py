"""Figures: scatters, bars, lines and time curves; no text covers another."""

from __future__ import annotations

import csv

import pytest

from advpt.evaluation.intervals import IMAGES_ONLY, wilson
from advpt.results import figures
from advpt.results.canvas import COLOURS, MARKERS, style
from advpt.results.exhibit import (
    Cell,
    Figure,
    PointCell,
    TimeCurve,
)
from advpt.results.figures import DrawnPoint
from advpt.results.values import Value
from tests.helpers.figures import SETS, faults, figure, legend_of, point, trade_off
from tests.helpers.reports import NASTY, PGD, key, put

METHODS_SHOWN = ("CoOp", "AdvPT")
LONG = "a data set whose name has no end, by people who like names and numbers"


def test_accuracy_over_wall_clock_counts_the_bank(small):
    def curve(*points):
        return [
            {"epoch": e, "clean": {"accuracy": a, "correct": 0, "n": 10, "interval95": [a - 5, a + 5]}}
            for e, a in points
        ]

    for seed, extra in ((1, 0.0), (2, 2.0)):
        times = {"before": 10.0 + extra, "epochs": [1.0, 2.0, 3.0]}
        training = {"curve": curve((1, 30.0), (3, 50.0 + seed))}
        put(small.top / f"adv{seed}", 80, 51, seed=seed, training=training, observed={"training": times})
    time_curves = (TimeCurve("p", "AdvPT", ("adv1", "adv2"), "clean"), TimeCurve("p", "FastAT", ("nobody",), "clean"))
    small.report(Figure("fig4", "t", "c", "lines", "s", "%", time_curves=time_curves, log_x=True))
    with (small.top / "report" / "figures" / "fig4.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["series"], r["label"], r["x"], r["y"]) for r in rows] == [
        ("AdvPT", "epoch 1", "12", "30.00"), ("AdvPT", "epoch 3", "17", "51.50"), ("FastAT", "", "", "not run"),
    ]  # fmt: skip
    assert len(rows[0]["records"].split()) == 2 and rows[0]["paper"] == "n/a"
    low, high = wilson(3, 10)  # both seeds alike: the ten images remain
    assert (rows[0]["y_low"], rows[0]["y_high"]) == (f"{low:.2f}", f"{high:.2f}")
    assert float(rows[1]["y_high"]) - 51.5 > 12.706 * 0.5 and rows[1]["interval"] == "2 seeds and images"
    assert (small.top / "report" / "figures" / "fig4.png").read_bytes()[:4] == b"\x89PNG"
    assert (small.top / "report" / "figures" / "fig4.pdf").read_bytes()[:4] == b"%PDF"


def test_bars_lines_and_empty_panels_are_drawn(small):
    cell = Cell(("adv1",), PGD, key("AdvPT", "pgd40"))
    bars = Figure(
        "fig6",
        "t",
        "c",
        "bars",
        "",
        "%",
        (PointCell("p", "s", "Pets", 0.0, cell), PointCell("q", "s", "DTD", 1.0, Cell(("no",), PGD))),
    )
    lines = Figure("fig7", "t", "c", "lines", "M", "%", tuple(PointCell("p", "s", "l", float(x), cell) for x in (1, 2)))
    report = small.report(bars, lines)
    with (small.top / "report" / "figures" / "fig7.csv").open() as file:
        assert {row["interval"] for row in csv.DictReader(file)} == {IMAGES_ONLY}
    assert "Error bars are 95 % intervals" in small.page()
    assert {p.name for p in report.files if p.suffix == ".png"} == {"fig6.png", "fig7.png"}


def test_a_dozen_series_look_different():
    looks = {(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(12)}
    assert len(looks) == 12


def time_curve(span: float):
    return [
        point(p, s, "", 10 ** (span * k / 9), 10.0 * k) for p in "ab" for s in ("AdvPT", "FastAT") for k in range(10)
    ]


def bars(names):
    return [point(p, s, n, float(i), 50.0) for p in ("ViT-B/16", LONG) for s in "xyz" for i, n in enumerate(names)]


WORD = DrawnPoint("p", "AdvPT", "Pets", None, Value("not run"), ())
CASES = {
    "Figure 3 as the paper has it": (figure("points"), trade_off()),
    "a scatter in one place": (figure("points"), trade_off(SETS * 1 + ("A", "B", "C", "D"), spread=0.0)),
    "many names in one panel": (figure("points"), trade_off([f"set number {k}" for k in range(24)], panels=("",))),
    "a scatter without names": (figure("points"), trade_off([""] * 8, [f"method {k}" for k in range(8)])),
    "one point": (figure("points"), [point("p", "AdvPT", "Pets", 100.0, 100.0)]),
    "names that are formulas": (figure("points"), trade_off([NASTY, "$x^", r"\frac{", "_b", LONG], ["_a", LONG, "$"])),
    "budgets": (figure("lines", "budget eps (1/255)"), [point("p", "s", "", x, 9.0) for x in (0, 0.5, 1, 2, 4, 8)]),
    "times from seconds to days": (figure("lines", "wall-clock (s)", log_x=True), time_curve(6)),
    "times in one minute": (figure("lines", "wall-clock (s)", log_x=True), time_curve(1)),
    "bars": (figure("bars", "data set"), bars(["V2", "Sketch", "A", "R"])),
    "bars of long names": (figure("bars", "data set"), bars(["ImageNetV2", "ImageNetSketch", LONG, NASTY] * 2)),
    "a word": (figure("points"), [WORD]),
    "nothing": (figure("lines"), []),
}


@pytest.mark.parametrize("across", (3, 1))
@pytest.mark.parametrize("name", CASES)
def test_no_text_of_a_figure_covers_another(name, across):
    about, points = CASES[name]
    if across == 1 and len({p.panel for p in points}) < 2:
        return
    with style():
        canvas = figures.compose(about, points, across)
    assert faults(canvas) == []
    series = {p.series for p in points if p.y.interval is not None}
    assert len(legend_of(canvas)) == len(series), "every series is in the legend"
    for axis in canvas.axes:
        assert axis.get_visible() and axis.get_xlabel() == about.x and axis.get_ylabel() == about.y


def test_every_data_set_of_figure_3_has_its_name_once_in_each_panel():
    with style():
        canvas = figures.compose(figure("points"), trade_off())
    for axis in canvas.axes:
        assert sorted(text.get_text() for text in axis.texts) == sorted(SETS)


def test_names_are_no_formulas(tmp_path):
    points = trade_off(["$x^$", NASTY], ["_a", "$\\alpha$"], panels=("$\\frac{",))
    paths = figures.draw(figure("points"), points, tmp_path)
    assert [path.name for path in paths] == ["figure.png", "figure.pdf", "figure.csv"]
    with style():
        assert legend_of(figures.compose(figure("points"), points)) == ["_a", "$\\alpha$"]


def test_a_narrow_figure_has_its_panels_below_each_other():
    points = trade_off(SETS[:2], METHODS_SHOWN)
    with style():
        wide, narrow = (figures.compose(figure("points"), points, across) for across in (3, 1))
    assert wide.get_figwidth() == 2 * narrow.get_figwidth() and wide.get_figheight() < narrow.get_figheight()
    assert figures.narrow(figure("points"), points)[:4] == b"\x89PNG"
    assert figures.narrow(figure("points"), [p for p in points if p.panel == "ViT-B/16"]) == b""


def test_those_who_do_not_see_a_figure_read_what_it_shows():
    text = figures.summary(figure("points"), trade_off(SETS[:2], METHODS_SHOWN))
    assert text.startswith("A figure. A scatter of CoOp, AdvPT; panels: ViT-B/16, ViT-L/14. accuracy (%) from ")
    assert "no number yet" in figures.summary(figure("bars"), [WORD])
