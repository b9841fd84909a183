"""What survives, from hand-made records: gains with paired intervals, on which images, and the word of each row."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from advpt.evaluation.intervals import Interval
from advpt.results import survival_text
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
    SurvivalRow,
    verdict,
)
from tests.helpers.benchmark import PLAIN, SOME, Made, N, defense, hits, on_part, survival, survivors


@pytest.fixture
def made(tmp_path) -> Made:
    return survivors(tmp_path)


def by_name(made: Made) -> dict[str, SurvivalRow]:
    return {each.name: each for each in survival(made).rows}


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
    defense(made, "low-pass", PLAIN, hits(15, SOME), rows=())
    for number_of, which in (("noise", range(SOME)), ("zero", [0] * SOME), ("dbd", range(N - SOME + 1, N + 1))):
        defense(made, number_of, PLAIN, hits(15, SOME), rows=which)
    defense(made, "hedge/steps=2", PLAIN, hits(15, SOME), digest="of other images")
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
    words = Counter(survival(made).states)
    assert words == {"value": 5, "not compared": 5, "missing": 1, "not run": 2}
    text = survival_text.sentences(survival(made))[-2]
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
    theirs = survival(made).rows[-1]
    assert (theirs.word, theirs.kind, theirs.adaptive) == (ALONE, OTHER, None)
    cells = survival_text.cells(survival(made), theirs)
    assert cells[0] == "my.module:make" and "10.0, 10.0" in cells and cells.count("-") == 5
    assert "my.module" not in " ".join(survival_text.sentences(survival(made)))


def test_names_say_what_a_row_adds_and_to_what(made):
    made.row("TeCoA", "hand-written", "none", ["x"], 0)
    made.row("TeCoA", "CoOp", "none", ["x"], 6)
    made.row("TeCoA", "CoOp", "low-pass+mean", ["x"], 7)
    made.row("TeCoA", "CoOp", "low-pass", ["x"], 7)
    rows = survival(made).rows[-5:]
    assert [each.name for each in rows] == [
        "AdvPT", "TeCoA", "CoOp on TeCoA", "low-pass+mean on CoOp on TeCoA", "low-pass on CoOp on TeCoA",
    ]  # fmt: skip
    assert [each.kind for each in rows] == [PROMPT, TOWER, PROMPT, TEST_TIME, INPUT]
    assert [each.label for each in rows[-2:]] == ["low-pass+mean", "low-pass"] and rows[-1].over == "CoOp on TeCoA"
    made.row("my.module:make", "", "none", ["theirs"], None)
    made.row("my.module:make", "", "own", ["theirs"], len(made.rows) - 1)
    names = [each.name for each in survival(made).rows]
    assert (names[1], names[-1]) == ("mean", "own on my.module:make"), "two models that nothing was done for"
