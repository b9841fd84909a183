"""Reports: numbers beside the paper's, words where there are none, and what a damaged shelf of records changes."""

from __future__ import annotations

import json

import pytest

from advpt.cli import main
from advpt.results.index import RecordIndex
from tests.helpers.reports import NASTY, PGD, Links, kinds, put


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


@pytest.mark.parametrize(("official", "shown"), [(None, "unknown"), (False, "False"), (True, "True")])
def test_whether_the_data_are_the_official_ones_is_said(small, official, shown):
    put(small.top / "adv1", 81, 51, seed=1, comparable=official)
    small.report()
    assert small.cells()["AdvPT", "pgd40"]["comparable"] == shown
    assert small.cells()["vanilla", "pgd40"]["comparable"] == "True"
    markdown = (small.top / "report" / "tables" / "table1.md").read_text()
    assert ("Whether this is the official split is unknown" in markdown) == (official is None)
    assert ("compare with nothing published" in markdown) == (official is False)


def test_pictures_of_an_attack_and_what_is_wrong_with_them(small):
    folder = small.top / "adv1" / "pictures"
    folder.mkdir()
    (folder / "00-clean.png").write_bytes(b"\x89PNG")
    record = next(iter(RecordIndex(small.runs).of(small.runs["adv1"]).values()))
    picture = {"id": "a", "label": NASTY, "files": {"clean": "../pictures/00-clean.png"}}
    picture["said"] = {"learned": {"clean": "cat", "attacked": "dog"}}
    about = {"record": record.id, "attack": "pgd", "protocol": "transfer", "magnified": 8.0, "pictures": [picture]}
    (folder / "pictures.json").write_text(json.dumps(about))
    assert kinds(small.report()) == []
    text = small.page()
    assert "learned prompt: cat → dog" in text and 'src="data:image/png;base64,iVBORw=="' in text
    (folder / "pictures.json").write_text(json.dumps(about | {"magnified": "much"}))
    (note,) = small.report().notes
    assert note.kind == "refused" and note.text.startswith("adv1/pictures/pictures.json is not what a run leaves")
    assert "magnified is 'much', expected a number" in note.text
    (folder / "pictures.json").write_text(json.dumps(about | {"record": "0" * 64}))
    (note,) = small.report().notes
    assert note.kind == "missing" and "belong to a record that is not there any more" in note.text
