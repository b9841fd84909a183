"""What survives, from hand-made records: gains with paired intervals, words, sentences and the figure."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import math

import numpy as np
import pytest
from scipy import stats

from advpt.evaluation.intervals import Interval
from advpt.results import survival_figure, survival_text
from advpt.results.canvas import style
from advpt.results.published import defense_cell, number
from advpt.results.report import write
from advpt.results.survival import (
    ALONE,
    HIDDEN,
    INPUT,
    KEEPS,
    LOSES,
    NOTHING,
    OTHER,
    PARTLY,
    PROMPT,
    REFERENCE,
    TEST_TIME,
    TOWER,
    UNCLAIMED,
    WORSE,
    FilledSurvival,
    SurvivalRow,
    fill_survival,
    verdict,
)
from tests.helpers.benchmark import Made, hits
from tests.helpers.figures import faults, legend_of

N, SOME = 100, 50
PLAIN = hits(10, N)


def on_part(made: Made, right: int) -> np.ndarray:
    """``[N]`` with ``right`` of the adaptive images, the last ones of them, and none of the others."""
    every = np.zeros(N, bool)
    every[made.which[SOME - right :]] = True
    return every


def row(made: Made, name: str, published: np.ndarray, adaptive: np.ndarray, run: str = "clip", **more) -> int:
    """A defense on the plain model, and both its records."""
    made.write(run, name, "static", published, **more)
    made.write(run, name, "adaptive", adaptive, **more)
    return made.row("CLIP", "hand-written", name, [run], 0)


@pytest.fixture
def made(tmp_path) -> Made:
    """The plain model; ``mean``, which keeps its gain; ``ttc``, whose gain is of the static attack alone; ``weak``,
    which does harm; ``hedge``, which does nothing; and the prompt AdvPT with three seeds."""
    made = Made(tmp_path, N, SOME)
    made.run("clip")
    made.row("CLIP", "hand-written", "none", ["clip"], None)
    for protocol, right in (("transfer", PLAIN), ("static", PLAIN), ("adaptive", hits(15, SOME))):
        made.write("clip", "", protocol, right)
    row(made, "mean", on_part(made, 30), hits(35, SOME))
    row(made, "ttc", on_part(made, 40), hits(13, SOME))
    row(made, "weak", on_part(made, 20), hits(3, SOME))
    row(made, "hedge", PLAIN, hits(15, SOME))
    for seed in (1, 2, 3):
        run = made.run(f"advpt{seed}", seed)
        made.write(run, "", "transfer", hits(60, N, seed), trainer="AdvPT")
        made.write(run, "", "adaptive", hits(12 + seed, SOME), trainer="AdvPT")
    made.row("CLIP", "AdvPT", "none", ["advpt1", "advpt2", "advpt3"], 0, authors="transfer")
    return made


def filled(made: Made) -> FilledSurvival:
    return fill_survival(made.survival(), made.index())


def by_name(made: Made) -> dict[str, SurvivalRow]:
    return {each.name: each for each in filled(made).rows}


def paired(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Student's interval of the mean of the differences, in points."""
    d = 100 * (np.asarray(one, float) - np.asarray(other, float))
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
    return d.mean(), d.mean() - half, d.mean() + half


def three(interval: Interval | None) -> tuple[float, float, float]:
    assert interval is not None
    return interval.mean, interval.low, interval.high


def test_both_gains_are_on_the_adaptive_images_with_paired_intervals(made):
    ttc = by_name(made)["ttc"]
    plain_static, plain_adaptive = PLAIN[made.which], hits(15, SOME)
    static, adaptive = on_part(made, 40)[made.which], hits(13, SOME)
    assert static.sum() == 40 and plain_static.sum() == 5, "on all images these are 40 and 10 of 100"
    assert three(ttc.published) == pytest.approx(paired(static, plain_static))
    assert three(ttc.adaptive) == pytest.approx(paired(adaptive, plain_adaptive))
    taken = (static.astype(float) - plain_static) - (adaptive.astype(float) - plain_adaptive)
    assert three(ttc.taken) == pytest.approx(paired(taken, np.zeros(SOME)))
    assert three(ttc.taken)[0] == pytest.approx(70 - -4) and ttc.published.images == SOME


def test_seeds_of_a_trained_method_count_beside_a_method_without(made):
    advpt = by_name(made)["AdvPT"]
    y = np.stack([hits(60, N, seed)[made.which] for seed in (1, 2, 3)]).astype(float)
    z = PLAIN[made.which].astype(float)
    rest = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    noise = (rest**2).sum() / (2 * (SOME - 1)) / y.size
    seeds, images = y.mean(1).var(ddof=1) / 3, (y.mean(0) - z).var(ddof=1) / SOME - noise
    half = 100 * math.sqrt(stats.t.ppf(0.975, 2) ** 2 * seeds + stats.t.ppf(0.975, SOME - 1) ** 2 * images)
    mean = 100 * (y.mean() - z.mean())
    assert three(advpt.published) == pytest.approx((mean, mean - half, mean + half))
    assert advpt.seeds == "1,2,3 and 1" and advpt.adaptive.seeds == (3,) and len(advpt.ids) == 8
    drop = np.stack([y[seed - 1] - hits(12 + seed, SOME) for seed in (1, 2, 3)])
    assert advpt.taken.mean == pytest.approx(100 * (drop.mean() - (z - hits(15, SOME)).mean()))


def test_a_gain_of_the_static_attack_alone_is_lost_and_another_is_kept(made):
    words = {name: each.word for name, each in by_name(made).items()}
    assert words == {
        "CLIP, hand-written": REFERENCE, "mean": KEEPS, "ttc": LOSES, "weak": WORSE, "hedge": NOTHING, "AdvPT": LOSES,
    }  # fmt: skip


UP, FLAT, DOWN = (20.0, 5.0, 35.0), (2.0, -5.0, 9.0), (-9.0, -15.0, -3.0)


@pytest.mark.parametrize(
    ("published", "adaptive", "taken", "word"),
    [
        (UP, UP, FLAT, KEEPS), (UP, UP, UP, PARTLY), (UP, FLAT, UP, LOSES), (UP, FLAT, FLAT, UNCLAIMED),
        (UP, DOWN, UP, WORSE), (FLAT, DOWN, FLAT, WORSE), (FLAT, FLAT, FLAT, NOTHING), (DOWN, FLAT, FLAT, NOTHING),
        (FLAT, UP, FLAT, HIDDEN), (UP, UP, DOWN, KEEPS),
    ],
)  # fmt: skip
def test_the_word_of_a_row(published, adaptive, taken, word):
    made = [Interval(*each, (3,), 50) for each in (published, adaptive, taken)]
    assert verdict(*made) == word
    assert verdict(*(dataclasses.replace(each, seeds=(2, 3)) for each in made)) == UNCLAIMED


def test_a_pair_without_common_images_is_left_out_with_the_word_for_why(made):
    row(made, "low-pass", PLAIN, hits(15, SOME), rows=())
    for number_of, which in (("noise", range(SOME)), ("zero", [0] * SOME), ("dbd", range(N - SOME + 1, N + 1))):
        row(made, number_of, PLAIN, hits(15, SOME), rows=which)
    row(made, "hedge/steps=2", PLAIN, hits(15, SOME), digest="of other images")
    made.row("CLIP", "hand-written", "rtpt", ["clip"], 0)
    made.row("TeCoA", "hand-written", "none", ["nobody"], 0)
    made.row("TeCoA", "hand-written", "mean", ["clip"], len(made.rows) - 1)
    rows = by_name(made)
    missing = {name: each.missing for name, each in rows.items()}
    unknown = "which images the adaptive ones are is not recorded: evaluate it again"
    assert [missing[name] for name in ("low-pass", "zero", "dbd")] == [unknown] * 3
    assert missing["noise"] == "other images than CLIP, hand-written"
    assert missing["rtpt"] == "static: missing" and missing["TeCoA"] == "static: not run"
    assert missing["mean on TeCoA"] == "TeCoA: static: not run"
    assert rows["rtpt"].adaptive is None and rows["rtpt"].word == "static: missing"
    text = survival_text.sentences(filled(made))[-2]
    assert text.startswith("Not compared: low-pass (which images") and "rtpt (static: missing)" in text


def test_records_of_all_images_need_no_rows(tmp_path):
    made = Made(tmp_path, SOME, SOME)
    made.run("clip")
    for name in ("", "mean"):
        for protocol in ("static", "adaptive"):
            made.write("clip", name, protocol, hits(10 + 5 * len(name), SOME))
        made.row("CLIP", "hand-written", name or "none", ["clip"], 0 if name else None)
    mean = by_name(made)["mean"]
    assert mean.word == KEEPS and mean.published.mean == mean.adaptive.mean == 40 and mean.taken.mean == 0


def test_other_seeds_are_left_out_and_noted_and_few_seeds_claim_nothing(made):
    next((made.top / "advpt3" / "records").glob("*adaptive*")).unlink()
    advpt = by_name(made)["AdvPT"]
    assert advpt.seeds == "1,2 and 1" and advpt.notes == ("without seed 3",) and advpt.word == UNCLAIMED
    made.runs["advpt2"] = dataclasses.replace(made.runs["advpt2"], state="failed", folder=made.top / "gone")
    assert by_name(made)["AdvPT"].notes == ("without seed 2", "without seed 3")
    made.write("advpt1", "", "adaptive", hits(13, SOME), trainer="AdvPT", rows=range(0, SOME))
    made.write("advpt3", "", "adaptive", hits(13, SOME), trainer="AdvPT")
    assert by_name(made)["AdvPT"].word == "the seeds have different images"


def test_a_random_defense_says_that_its_outcomes_are_of_one_draw(made):
    result = {"defense_seeds": [{"seed": seed, "accuracy": 30.0} for seed in (0, 1)]}
    path = made.write("clip", "mean", "adaptive", hits(35, SOME))
    assert not by_name(made)["mean"].notes
    made.write("clip", "mean", "adaptive", hits(35, SOME), robust_fields=result)
    assert path.is_file() and by_name(made)["mean"].notes == ("outcomes of the first of 2 draws",)


def test_a_model_with_nothing_to_compare_it_with_is_listed_without_a_gain(made):
    made.write(made.run("theirs"), "", "static", hits(9, N), trainer="Outside")
    made.write("theirs", "", "adaptive", hits(5, SOME), trainer="Outside")
    made.row("my.module:make", "", "none", ["theirs"], None)
    theirs = filled(made).rows[-1]
    assert (theirs.word, theirs.kind, theirs.adaptive) == (ALONE, OTHER, None)
    cells = survival_text.cells(filled(made), theirs)
    assert cells[0] == "my.module:make" and "10.0, 10.0" in cells and cells.count("-") == 5
    assert "my.module" not in " ".join(survival_text.sentences(filled(made)))


def test_names_say_what_a_row_adds_and_to_what(made):
    made.row("TeCoA", "hand-written", "none", ["x"], 0)
    made.row("TeCoA", "CoOp", "none", ["x"], 6)
    made.row("TeCoA", "CoOp", "low-pass+mean", ["x"], 7)
    made.row("TeCoA", "CoOp", "low-pass", ["x"], 7)
    rows = filled(made).rows[-5:]
    assert [each.name for each in rows] == [
        "AdvPT", "TeCoA", "CoOp on TeCoA", "low-pass+mean on CoOp on TeCoA", "low-pass on CoOp on TeCoA",
    ]  # fmt: skip
    assert [each.kind for each in rows] == [PROMPT, TOWER, PROMPT, TEST_TIME, INPUT]
    assert [each.label for each in rows[-2:]] == ["low-pass+mean", "low-pass"] and rows[-1].over == "CoOp on TeCoA"
    made.row("my.module:make", "", "none", ["theirs"], None)
    assert filled(made).rows[1].name == "mean on CLIP, hand-written", "two models that nothing was done for"


def test_sentences_name_who_keeps_the_gain_and_end_with_what_is_not_claimed(made):
    text = survival_text.sentences(filled(made))
    assert text[0].startswith("As its authors measure it, 4 of 5 have a gain over the same without it.")
    assert "1 of 4 keeps one that chance does not explain: over CLIP, hand-written: mean (+40.0 of +50" in text[0]
    assert "0, +25.9 to +54.1). In brackets: points against this attacker of those as published" in text[0]
    lost, worse, nothing, last = text[1:]
    assert lost.startswith(
        "The gain is lost to an attacker who knows the method: over CLIP, hand-written: AdvPT (-2.0 of +"
    )
    assert "ttc (-4.0 of +70.0, -" in lost
    assert worse.startswith(
        "Worse with it than without, against an attacker who knows it: over CLIP, hand-written: weak (-24.0 of +"
    )
    assert nothing == "No gain by either measure: over CLIP, hand-written: hedge."
    assert last.startswith("Nothing is claimed beyond DemoCLIP, Digits, 50 of its images, pgd20-ce@4 and the attacks")
    assert "5 rows were looked at" in last and "about 0.25 of 5 adaptive intervals would leave 0 out by chance" in last


def test_nothing_is_said_before_anything_is_measured(made):
    gone = {name: dataclasses.replace(run, state="not run", folder=made.top / "x") for name, run in made.runs.items()}
    made.runs = gone
    assert survival_text.sentences(filled(made)) == [
        "No row has both gains yet, so that nothing can be said of what survives."
    ]
    with style():
        canvas = survival_figure.compose(filled(made))
    assert [text.get_text() for text in canvas.axes[0].texts] == ["no number yet"]


def test_csv_markdown_and_latex(made):
    made.rows[0] = dataclasses.replace(made.rows[0], static=defense_cell(*CELLS[0]))
    made.rows[1] = dataclasses.replace(made.rows[1], static=defense_cell(*CELLS[1]))
    gain = number(made.rows[1].static) - number(made.rows[0].static)
    content = filled(made)
    rows = {r["defense"] + r["prompt"]: r for r in csv.DictReader(io.StringIO(survival_text.comma_separated(content)))}
    ttc = rows["ttchand-written"]
    assert (ttc["gain"], ttc["adaptive_gain"], ttc["taken"], ttc["outcome"]) == ("70.00", "-4.00", "74.00", LOSES)
    assert (ttc["accuracy"], ttc["adaptive_accuracy"], ttc["over_accuracy"]) == ("80.00", "26.00", "10.00")
    assert len(ttc["records"].split()) == 4 and ttc["paper_gain"] == "" and ttc["images"] == "50"
    assert rows["meanhand-written"]["paper_gain"] == f"{gain:.2f}"
    assert rows["nonehand-written"]["outcome"] == REFERENCE and rows["nonehand-written"]["gain"] == ""
    text = survival_text.text(content)
    assert "+70.0 [" in text and f"{gain:+.1f}" in text and text.index("lost to an attacker") < text.index("| method")
    assert r"\toprule" in survival_text.latex(content) and "80.0, 26.0" in survival_text.latex(content)


CELLS = (
    ("T-VSS, 2026 table 1", "ViT-B/16", "Flowers", "CLIP", "PGD-100, step eps/4", "4"),
    ("T-VSS, 2026 table 1", "ViT-B/16", "Flowers", "R-TPT", "PGD-100, step eps/4", "4"),
)


# --- the figure ---------------------------------------------------------------------------------------------------


def many(made: Made, spread: float = 1.0, base: int = 0) -> None:
    """A dozen defenses, near to each other with little ``spread``."""
    for k, name in enumerate(("rtpt", "mta", "zero", "dbd", "clipure", "anti-adversaries", "noise", "low-pass")):
        gain = int(spread * 5 * k)
        row(made, name, on_part(made, 5 + gain), hits(15 + gain // (1 + k % 3), SOME))
        made.rows[-1] = dataclasses.replace(made.rows[-1], against=base)


@pytest.mark.parametrize(("spread", "narrow"), [(1.0, False), (0.1, True)])
def test_no_text_of_the_figure_covers_another(made, spread, narrow):
    many(made, spread)
    with style():
        canvas = survival_figure.compose(filled(made), narrow=narrow)
    assert faults(canvas) == []
    (axis,) = canvas.axes
    names = {each.label for each in filled(made).compared}
    assert len(names) == 13 and {text.get_text() for text in axis.texts} == names, "each mark has its name"
    assert axis.get_xlim() == axis.get_ylim(), "so that the diagonal is one"
    kinds = [INPUT, TEST_TIME, PROMPT]
    assert set(legend_of(canvas)) == {*kinds, "filled: keeps a gain", "hollow: does not, or nothing is claimed",
                                      "all of the gain is kept", "fewer right with it than without"}  # fmt: skip


def test_a_mark_stands_at_both_gains_and_is_filled_where_a_gain_is_kept(made):
    with style():
        (axis,) = survival_figure.compose(filled(made)).axes
    marks = {(line.get_xdata()[0], line.get_ydata()[0]): line for line in axis.lines if len(line.get_xdata()) == 1}
    rows = {each.name: each for each in filled(made).compared}
    assert len(marks) == 5
    for name, each in rows.items():
        filling = marks[each.published.mean, each.adaptive.mean].get_markerfacecolor()
        assert (filling == "white") == (name != "mean"), name


def test_each_row_that_others_are_compared_with_has_a_panel(made):
    many(made, base=1)
    with style():
        wide, narrow = (survival_figure.compose(filled(made), narrow=each) for each in (False, True))
    assert [axis.get_title() for axis in wide.axes] == ["over CLIP, hand-written", "over mean"]
    assert wide.get_figwidth() > 1.9 * narrow.get_figwidth() and faults(wide) == faults(narrow) == []
    assert wide.axes[0].get_xlim() == wide.axes[1].get_ylim()


def test_the_report_has_the_figure_the_sentences_and_both_tables(made):
    report = write([made.survival(), made.table()], made.runs, made.top / "report", title="t", about="a", top=made.top)
    page = html.unescape((made.top / "report" / "index.html").read_text())
    for shown in ("1 of 4 keeps one", "Nothing is claimed beyond", "won by", "ttc over CLIP, hand-written: +70.0",
                  "Crosses: 95 % intervals", "the strongest of the adaptive attacks"):  # fmt: skip
        assert shown in page, shown
    assert page.index("<img") < page.index("As its authors measure it, 4 of 5") and page.count("data:image/png") == 2
    for each in filled(made).compared:
        assert all(f'href="#record-{i[:16]}"' in page for i in each.ids)
    kinds = {path.relative_to(made.top / "report").as_posix() for path in report.files}
    assert {"figures/survival.png", "figures/survival.pdf", "tables/survival.csv", "tables/survival.md",
            "tables/survival.tex", "tables/benchmark.csv"} <= kinds  # fmt: skip
