"""Figures: bars, lines and time curves."""

from __future__ import annotations

import csv

from advpt.evaluation.intervals import IMAGES_ONLY, wilson
from advpt.results.exhibit import (
    Cell,
    Figure,
    PointCell,
    TimeCurve,
)
from advpt.results.figures import COLOURS, MARKERS
from tests.helpers.reports import PGD, key, put


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
