"""Tables of a benchmark from hand-made records: numbers, seeds, cost, which attack won, and words where nothing is."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest

from advpt.results.benchmark import SECONDS, WON, columns, comma_separated, fill_benchmark
from advpt.results.published import defense_cell, number
from advpt.results.render import text as text_of
from tests.helpers.benchmark import TRANSFER, Made, hits, part

COST = {"forward": 64, "backward": 0, "text_forward": 2, "text_backward": 1}
RIGHT = {"CLIP": (10, 6, 4), "AdvPT": (24, 8, 4)}  # of 40, of 40 and of 20 images: transfer, static, knowing attackers


def write(made: Made, run: str, defense: str, trainer: str, right: tuple[int, int, int], **more) -> None:
    """Every record of a row in a run."""
    transfer, static, knowing = right
    for attack in TRANSFER:
        made.write(run, defense, "transfer", hits(transfer, 40), attack=attack, trainer=trainer, untouched=15.0, **more)
    made.write(run, defense, "static", hits(static, 40), clean=hits(36, 40), trainer=trainer, **more)
    about = {"clean": hits(19, 20), "trainer": trainer, **more}
    made.write(run, defense, "pseudo", hits(knowing + 1, 20), **about)
    parts = [part("static", knowing + 3, 20), part("mean of views, ce", knowing + 2, 20)]
    parts.append(part("Square", knowing, knowing + 2, left=True))
    made.write(run, defense, "adaptive", hits(knowing, 20), parts=parts, **about)


@pytest.fixture
def made(tmp_path) -> Made:
    """CLIP with its hand-written prompt, a defense behind it, and AdvPT with three seeds."""
    made = Made(tmp_path)
    write(made, made.run("clip"), "", "ZeroshotCLIP", RIGHT["CLIP"])
    write(made, "clip", "mean", "ZeroshotCLIP", (30, 28, 14), cost=COST, observed={"milliseconds": 44.04})
    papers = ("T-VSS, 2026 table 1", "ViT-B/16", "Flowers", "R-TPT")
    clip = made.row("CLIP", "hand-written", "none", ["clip"], None)
    cells = {"clean": defense_cell(*papers), "static": defense_cell(*papers, "PGD-100, step eps/4", "4")}
    made.row("CLIP", "hand-written", "mean", ["clip"], clip, **cells)
    for seed in (1, 2, 3):
        times = {"training": {"before": 3.0, "epochs": [10.0, 2.0 * seed]}}
        more = tuple(each + seed - 2 for each in RIGHT["AdvPT"])
        write(made, made.run(f"advpt{seed}", seed), "", "AdvPT", more, observed=times)
    made.row("CLIP", "AdvPT", "none", ["advpt1", "advpt2", "advpt3"], clip, authors="transfer")
    return made


def test_each_number_is_of_its_record_and_its_images(made):
    index = made.index()
    filled = fill_benchmark(made.table(), index)
    assert filled.table.columns == (
        "clean, 40 images", "transfer pgd20-ce@4, 40 images", "transfer apgd-ce-t@4, 40 images", "static, 40 images",
        "clean, 20 of them", "static, 20 of them", "pseudo, 20 of them", "adaptive, 20 of them",
    )  # fmt: skip
    plain, mean, advpt = ([value.mean_text for value in line] for line in filled.values)
    assert plain == ["90.0", "25.0", "25.0", "15.0", "95.0", "35.0", "25.0", "20.0"]
    assert mean == ["90.0", "75.0", "75.0", "70.0", "95.0", "85.0", "75.0", "70.0"]
    assert advpt == ["90.0", "60.0", "60.0", "20.0", "95.0", "35.0", "25.0", "20.0"], "means over the seeds"
    assert {value.seeds for value in filled.values[2]} == {(1, 2, 3)} and not index.notes
    assert [v.untouched_text for v in filled.values[0]][:4] == ["", "15 % untouched", "15 % untouched", ""]
    assert filled.names == {
        "tower": ["CLIP"] * 3, "prompt": ["hand-written"] * 2 + ["AdvPT"], "defense": ["none", "mean", "none"],
    }  # fmt: skip
    assert filled.extra[SECONDS] == ["-", "-", "17"], "the mean of 15, 17 and 19 seconds"
    assert filled.cost(filled.values[1]) == ["64 F, 2 f, 1 b", "44"]
    published = [value.paper for value in filled.values[1]]
    assert published == [number(made.rows[1].clean), *[None] * 2, number(made.rows[1].static), *[None] * 4]
    assert published[0] and published[3]


def test_all_columns_are_of_one_set_where_all_images_are_attacked(made):
    for images, some, head in ((40, 0, "adaptive, 40 images"), (0, 0, "adaptive, all images"), (0, 20, "20 images")):
        heads = [column.head for column in columns(dataclasses.replace(made.table(), images=images, some=some))]
        assert heads[-1].endswith(head) and len(heads) == (8 if some else 6)


def test_the_attack_that_won_left_the_fewest_of_all_images(made):
    won = fill_benchmark(made.table(), made.index()).extra[WON]
    assert won[1] == "mean of views, ce: 80.0 %; then Square: 2 of 16 left"
    assert won[2] == "mean of views, ce: 30.0 %; then Square: 6 of 18 left", "18 of 60 over three seeds"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], "-"),
        ([part("static", 4, 20), part("ce", 4, 20), part("margin", 9, 20)], "static and 1 alike: 20.0 %"),
        ([part("static", 4, 20), part("APGD", 4, 4, left=True), part("Square", 4, 4, left=True)], "static: 20.0 %"),
        (
            [part("static", 9, 20), part("APGD", 8, 9, left=True), part("Square", 0.5, 8, left=True)],
            "static: 45.0 %; then Square: 7.5 of 8 left",
        ),
    ],
)
def test_which_attack_won(made, parts, text):
    made.write("clip", "mean", "adaptive", hits(4, 20), parts=parts)
    assert fill_benchmark(made.table(), made.index()).extra[WON][1] == text


def test_of_an_attack_in_stages_the_one_that_broke_most_won(made):
    made.write("clip", "mean", "adaptive", hits(4, 20), stages={"apgd-ce": 3, "square": 9})
    assert fill_benchmark(made.table(), made.index()).extra[WON][1] == "square"


def test_each_row_is_compared_with_that_without_its_method_alone(made):
    made.row("CLIP", "AdvPT", "none", ["advpt1", "advpt2", "advpt3"], 1)
    comparisons = fill_benchmark(made.table(), made.index()).comparisons
    names = ["CLIP, hand-written, mean - CLIP, hand-written"] * 2 + ["CLIP, AdvPT - CLIP, hand-written"] * 2
    names += ["CLIP, AdvPT - CLIP, hand-written, mean"] * 2
    assert [each.names for each in comparisons] == names
    assert [each.accuracy for each in comparisons] == [
        "static, 40 images", "adaptive, 20 of them", "transfer pgd20-ce@4, 40 images", "adaptive, 20 of them",
        "static, 40 images", "adaptive, 20 of them",
    ]  # fmt: skip
    assert [round(each.interval.mean, 6) for each in comparisons] == [55.0, 50.0, 35.0, 0.0, -50.0, -50.0]


def test_what_is_not_there_is_a_word_and_says_whose_fault_it_is(made):
    adaptive = next((made.top / "advpt3" / "records").glob("*adaptive*"))
    adaptive.unlink()
    made.runs["advpt2"] = dataclasses.replace(made.runs["advpt2"], folder=made.top / "gone", state="failed")
    static = next((made.top / "clip" / "records").glob("*static*_mean.json"))
    static.write_text(
        static.read_text().replace('"correct":28', '"correct":29').replace('"correct": 28', '"correct": 29')
    )
    index = made.index()
    filled = fill_benchmark(made.table(), index)
    assert filled.values[2][-1].notes == ("seed 2: failed", "seed 3: missing") and filled.values[2][-1].seeds == (1,)
    assert filled.values[1][3].state == "refused"
    assert filled.values[1][0].mean_text == "100.0", "the clean accuracy stands in the records of other attacks, too"
    assert {note.kind for note in index.notes} == {"failed", "missing", "refused"}
    gone = {
        name: dataclasses.replace(run, folder=made.top / "gone", state="not run") for name, run in made.runs.items()
    }
    made.runs = gone
    filled = fill_benchmark(made.table(), made.index())
    assert {value.state for line in filled.values for value in line} == {"not run"} and not filled.comparisons
    assert filled.extra == {SECONDS: ["-"] * 3, WON: ["-"] * 3}


def test_a_model_from_outside_has_no_number_under_attackers_that_do_not_apply(made):
    made.write(made.run("theirs"), "", "adaptive", hits(3, 20), trainer="Outside")
    made.row("my.module:make", "", "none", ["theirs"], None)
    index = made.index()
    filled = fill_benchmark(made.table(), index)
    assert [value.state for value in filled.values[-1]] == ["n/a"] * 4 + ["value", "n/a", "n/a", "value"]
    assert not index.notes and filled.names["prompt"][-1] == "-"


def test_of_two_parts_of_the_images_that_of_the_table_is_shown(made):
    made.write("clip", "mean", "adaptive", hits(1, 10), rows=range(10))
    filled = fill_benchmark(made.table(), made.index())
    assert filled.values[1][-1].runs.images == 20


def test_csv_and_markdown_have_every_number_with_its_records(made):
    table = made.table()
    filled = fill_benchmark(table, made.index())
    rows = list(csv.DictReader(io.StringIO(comma_separated(table, filled))))
    assert len(rows) == 3 * 8
    by = {(r["method"], r["defense"], r["protocol"], r["images"], r["attack"]): r for r in rows}
    advpt = by["AdvPT", "none", "transfer", "40", "apgd-ce-t@4"]
    assert (advpt["ours"], advpt["untouched"], advpt["training_s"], advpt["tower"]) == ("60.00", "15.0", "17", "CLIP")
    ids = {json.loads(path.read_text())["id"] for path in made.top.glob("advpt*/records/*transfer*apgd*")}
    assert set(advpt["records"].split()) == ids and len(ids) == 3
    mean = by["hand-written", "mean", "adaptive", "20", "pgd20-ce@4"]
    assert (mean["ms"], mean["won_by"]) == ("44.04", "mean of views, ce: 80.0 %; then Square: 2 of 16 left")
    text = text_of(filled)
    assert "| tower   | prompt       | defense   | seeds   | training (s)   | won by" in text
    assert "25.0 [14.2, 40.2] (15 % untouched)" in text and text.index("| tower") < text.index("Won by: of the")
