"""What ``prepare`` lays out from an archive of the real name and layout loads through the registered class."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from yacs.config import CfgNode

import datasets
from advpt.data.facts import DatasetFacts, Part, SplitFacts
from advpt.data.prepare import prepare
from tests.helpers.prepare import (
    EVERY,
    Server,
    asked_for,
    everything,
    listed,
    load,
    options,
    picture,
    rows,
    small,
)


@pytest.mark.parametrize("name", EVERY)
def test_fetched_laid_out_and_loaded(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = small(name, server)
    report = prepare(made.facts, tmp_path / "data", asked_for(made, tmp_path / "mine"))
    assert report.ok
    assert report.counts == made.facts.counts
    data = load(made, tmp_path / "data", monkeypatch)
    if made.facts.split:
        assert [len(data.train_x), len(data.val), len(data.test)] == [6, 2, 4]
        assert data.classnames == [classname for _, classname in listed(name)[0]]
    assert len(data.test) == made.facts.counts[2]
    assert data.comparable is True
    folder = tmp_path / "data" / made.facts.folder
    assert not (folder / ".prepare").exists()
    assert not list(folder.rglob("._*"))
    if "classnames.txt" in made.facts.other:
        assert len((folder / "classnames.txt").read_text().splitlines()) == 1000


def test_a_second_run_does_nothing_and_asks_nobody(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    prepare(made.facts, tmp_path, options())
    before, asked = everything(tmp_path), len(server.requests)
    assert prepare(made.facts, tmp_path, options()).ok
    assert (everything(tmp_path), len(server.requests)) == (before, asked)


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_ones_own_set_as_datasets_md_says(tmp_path: Path) -> None:
    facts = DatasetFacts(
        name="Birds",
        aliases=("birds",),
        folder="birds",
        image_dir="images",
        classes=2,
        counts=(6, 2, 4),
        split=SplitFacts("split_birds.json"),
        parts=(Part("images"),),
    )
    Birds = datasets.class_for(facts)
    assert (Birds.__name__, Birds.dataset_dir) == ("Birds", "birds")
    content = rows([("owl/{}.jpg", "owl"), ("wren/{}.jpg", "wren")])
    for path in (row[0] for part in content.values() for row in part):
        target = tmp_path / "birds" / "images" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(picture())
    (tmp_path / "birds" / "split_birds.json").write_text(json.dumps(content))
    cfg = CfgNode({"SEED": 1, "DATASET": {"NAME": "Birds", "ROOT": str(tmp_path), "NUM_SHOTS": 1}})
    data = Birds(cfg)
    assert data.classnames == ["owl", "wren"]
    assert len(data.train_x) == 2
    assert prepare(facts, tmp_path, options()).ok
    marked = SplitFacts("split_birds.json", content=data.split_digest)
    assert datasets.class_for(dataclasses.replace(facts, split=marked))(cfg).comparable
