"""Reports: numbers beside the paper's, words where there are none, and what a damaged shelf of records changes."""

from __future__ import annotations

import pytest

from advpt.cli import main
from tests.helpers.reports import NASTY, PGD, Links, put


def test_report_of_folders_writes_the_same_page(small, capsys):
    """Heads are words; the exact attack is in the tooltip, in the legend of the page and in that of the text."""
    attack = {"spec": PGD.attack, "name": "pgd", "objective": "fkl", "steps": 40, "eps": 16.0}
    put(small.top / "adv1", 81, 51, attack=attack, warnings=[NASTY])
    path = small.top / "page.html"
    assert main(["report", str(small.top / "adv1"), "--page", str(path)]) == 0
    printed, text = capsys.readouterr().out, path.read_text()
    head = "PGD-40 (feature KL) 16/255, transfer"
    assert f"page      {path}" in printed and f"{head} = {PGD.attack}" in printed and f"| {head} " in printed
    assert f'<span title="{PGD.attack}">{head}</span>' in text and f"<dd><code>{PGD.attack}</code></dd>" in text
    page = Links(text)
    assert "script" not in page.tags and "&lt;script&gt;" in text
    inside = {link[1:] for link in page.to if link.startswith("#")}
    assert inside <= page.ids and any(link.startswith("record-") for link in inside)
    outside = [link for link in page.to if not link.startswith("#")]
    assert len(outside) == 3 and all((small.top / link).is_file() for link in outside), "the figure, PDF and CSV"


def test_one_figure_stands_above_tables_of_more_and_fewer_images(small):
    put(small.top / "adv1", 81, 51)
    put(small.top / "fewer", 41, 21, n=50, images={"n": 50, "digest": "e", "part": False})
    path = small.top / "pages" / "page.html"
    path.parent.mkdir()
    assert main(["report", str(small.top / "adv1"), str(small.top / "fewer"), "--page", str(path)]) == 0
    text = path.read_text()
    order = [text.index(each) for each in ("at a glance</h2>", "<img", "100 images, ViT-B/16</h2>")]
    assert text.count("<img") == 1 and order == sorted(order)
    assert "n = 50: 42.0" in text and "clean: 81.0" in text and "clean: 82.0" not in text
    assert [each.name for each in (path.parent / "figures").glob("*.csv")] == [
        "OxfordPets-test-split-ViT-B-16_glance.csv"
    ]


@pytest.mark.parametrize(("official", "shown"), [(None, "unknown"), (False, "False"), (True, "True")])
def test_whether_the_data_are_the_official_ones_is_said(small, official, shown):
    put(small.top / "adv1", 81, 51, seed=1, comparable=official)
    small.report()
    assert small.cells()["AdvPT", "pgd40"]["comparable"] == shown
    assert small.cells()["vanilla", "pgd40"]["comparable"] == "True"
    markdown = (small.top / "report" / "tables" / "table1.md").read_text()
    assert ("Whether this is the official split is unknown" in markdown) == (official is None)
    assert ("compare with nothing published" in markdown) == (official is False)
