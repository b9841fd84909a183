"""Numbers beside the paper's, and words where there are none."""

from __future__ import annotations

import html

import pytest
import torch

from advpt.evaluation.intervals import IMAGES_ONLY, STATEMENT, Runs, accuracy_interval, wilson
from advpt.results.exhibit import (
    CLEAN,
    Cell,
)
from advpt.results.index import RecordIndex, Run
from advpt.results.values import value
from tests.helpers.reports import PGD, key, kinds, put


def test_ours_the_papers_the_difference_and_where_it_comes_from(small):
    report = small.report()
    cells = small.cells()
    zs, adv = cells["vanilla", "clean"], cells["AdvPT", "pgd40"]
    low, high = wilson(60, 100)
    assert (zs["ours"], zs["paper"], zs["difference"], zs["seeds"]) == ("60.00", "89.1", "-29.1", "1")
    assert (zs["low95"], zs["high95"]) == (f"{low:.2f}", f"{high:.2f}")
    assert (adv["ours"], adv["seeds"], adv["paper"]) == ("52.00", "1 2 3", str(key_number("AdvPT", "pgd40")))
    right = {seed: (torch.arange(100) < 50 + seed).numpy() for seed in (1, 2, 3)}
    over = accuracy_interval(Runs({seed: 50.0 + seed for seed in right}, right, 100))
    assert (adv["low95"], adv["high95"]) == (f"{over.low:.2f}", f"{over.high:.2f}") and adv["better"] == "True"
    assert over.high - over.low > wilson(52, 100)[1] - wilson(52, 100)[0], "the images, too, and not the seeds alone"
    assert (adv["interval"], zs["interval"]) == ("3 seeds and images", "images")
    assert zs["better"] == "False" and len(adv["records"].split()) == 3
    assert kinds(report) == [] and dict(report.words) == {"value": 4, "n/a": 4}
    markdown = (small.top / "report" / "tables" / "table1.md").read_text()
    assert f"**52.0 [{over.low:.1f}, {over.high:.1f}]**; paper" in markdown and "; paper 89.1, -29.1" in markdown
    assert all(STATEMENT in html.unescape(page) for page in (markdown, small.page()))


def key_number(method: str, attack: str) -> float:
    from advpt.results.published import number

    return number(key(method, attack))


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_bold_needs_three_seeds_and_one_seed_is_said(small, seeds):
    for name in [f"adv{seed}" for seed in range(seeds + 1, 4)]:
        del small.runs[name]
    small.report()
    adv, zs = (small.cells()[method, "pgd40"] for method in ("AdvPT", "vanilla"))
    assert adv["better"] == str(seeds == 3) and zs["better"] == "False"
    text = (small.top / "report" / "tables" / "table1.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ViT-B/16") and "AdvPT" in line]
    assert sum("**" in row for row in rows) == 2 * (seeds == 3)
    for shown in (*rows, small.page().split("<tbody>")[1].split("</tbody>")[0]):
        assert (f"({IMAGES_ONLY})" in shown) == (seeds == 1)
    assert not any(IMAGES_ONLY in line for line in text.splitlines() if "| vanilla" in line)
    tex = (small.top / "report" / "tables" / "table1.tex").read_text()
    assert (r"\textbf" in tex) == (seeds == 3) and tex.count(f"({IMAGES_ONLY})") == 2 * (seeds == 1)


def test_images_of_another_protocol_have_no_number_of_the_paper_beside_them(small):
    put(small.top / "zs", 60, 20, trainer="ZeroshotCLIP", config={"DATASET.PROTOCOL": "tecoa"})
    small.report()
    cell = small.cells()["vanilla", "clean"]
    assert (cell["ours"], cell["paper"], cell["difference"]) == ("60.00", "n/a", "")


def test_three_words_for_three_things(small):
    small.runs["adv2"] = Run("adv2", small.top / "none", 2, "not run", "AdvPT, pets, seed 2")
    small.runs["zs"] = Run("zs", small.top / "none", 1, "failed", "ZeroshotCLIP, pets", small.top / "zs.log")
    small.report()
    cells = small.cells()
    assert cells["vanilla", "clean"]["ours"] == "failed" and cells["vanilla", "clean"]["paper"] == "89.1"
    assert cells["AdvPT", "clean"]["ours"] == "82.00" and cells["AdvPT", "clean"]["notes"] == "seed 2: not run"
    cell = Cell(("nobody",), CLEAN)
    assert (
        value(cell, RecordIndex(small.runs)).state == "not run"
        and value(cell, RecordIndex(small.runs)).paper_text == "n/a"
    )
    assert value(None, RecordIndex(small.runs)).state == "n/a"


def test_seeds_that_saw_other_images_are_not_compared(small):
    put(small.top / "zs", 60, 20, trainer="ZeroshotCLIP", images={"n": 100, "digest": "other", "part": False})
    small.report()
    assert small.cells()["AdvPT", "pgd40"]["better"] == "False"
    put(small.top / "adv2", 82, 52, seed=2, images={"n": 100, "digest": "other", "part": False})
    for path in (small.top / "adv2" / "records").glob("*"):
        assert path.is_file()
    assert "different images" in value(Cell(("adv1", "adv2"), PGD), RecordIndex(small.runs)).notes[0]
