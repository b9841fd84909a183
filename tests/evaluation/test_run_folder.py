"""A run's folder belongs to one configuration and one data set; a start that came to nothing claims neither."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
from dassl.config import get_cfg_default

from advpt.data.lists import DataLists
from advpt.data.split import Split
from advpt.errors import RecordError
from advpt.evaluation import run_folder
from advpt.settings import extend_cfg, merge_overrides


def configuration(*pairs: str):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    merge_overrides(cfg, pairs)
    return cfg


def lists(folder: Path, classes=("fox", "owl"), n: int = 2) -> DataLists:
    rows = {part: tuple((f"{part}/{name}/{i}.png", label, name) for label, name in enumerate(classes) for i in range(n))
            for part in ("train", "val", "test")}  # fmt: skip
    for part in rows.values():
        for path, *_ in part:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(path)
    return DataLists(tuple(classes), Split(**rows), folder)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def do_something(run: Path) -> None:
    (run / "prompt_learner").mkdir()
    (run / "prompt_learner" / "model.pth.tar-1").write_text("")


def test_a_start_that_came_to_nothing_is_no_run(run, tmp_path):
    """What a failed start leaves is its log and, in folders of before, its configuration."""
    for name in ("log.txt", "log.txt-2026-01-01", "console.txt", ".lock", "tensorboard"):
        (run / name).mkdir(parents=True)
    (run / run_folder.FILE).write_text(json.dumps({"OPTIM.NAME": "adma"}))
    cfg, data = configuration("OPTIM.NAME", "adam"), lists(tmp_path / "a")
    run_folder.check(run, cfg)
    run_folder.claim(run, cfg, data)
    assert json.loads((run / run_folder.FILE).read_text())["OPTIM.NAME"] == "adam"
    assert json.loads((run / run_folder.DATA).read_text())["classnames"] == ["fox", "owl"]
    do_something(run)
    with pytest.raises(RecordError, match="OPTIM.NAME: the folder has 'adam', this run 'sgd'"):
        run_folder.check(run, configuration("OPTIM.NAME", "sgd"))
    with pytest.raises(RecordError, match="another configuration"):
        run_folder.claim(run, configuration("OPTIM.NAME", "sgd"), data)
    assert json.loads((run / run_folder.FILE).read_text())["OPTIM.NAME"] == "adam"


def test_other_data_are_refused_and_nothing_is_changed(run, tmp_path):
    cfg = configuration()
    run_folder.claim(run, cfg, lists(tmp_path / "a"))
    do_something(run)
    before = (run / run_folder.DATA).read_bytes()
    run_folder.claim(run, cfg, lists(tmp_path / "moved"))
    for other, words in ((lists(tmp_path / "b", ("crow", "owl")), "its class 0 is 'fox'"),
                         (lists(tmp_path / "c", n=3), "its train list has 4 images, that of this run 6")):  # fmt: skip
        with pytest.raises(RecordError, match=rf"{words}.*another --output-dir.*--root"):
            run_folder.claim(run, cfg, other)
        with pytest.raises(RecordError, match=words.replace("train", "test")):
            run_folder.claim(run, cfg, other, evaluating=True)
    assert (run / run_folder.DATA).read_bytes() == before


def test_an_evaluation_reads_the_test_images_alone(run, tmp_path):
    full = lists(tmp_path / "a", n=3)
    few = dataclasses.replace(full, split=dataclasses.replace(full.split, train=full.split.train[::3], val=()))
    run_folder.claim(run, configuration(), few)
    do_something(run)
    run_folder.claim(run, configuration(), full, evaluating=True)
    with pytest.raises(RecordError, match="its train list has 2 images"):
        run_folder.claim(run, configuration(), full)
    drawn = configuration("SEED", "-1", "DATASET.NUM_SHOTS", "1")
    run_folder.check_data(run, drawn, full)  # few shots that every start draws anew


def test_a_folder_of_before_is_adopted_in_words_unless_its_prompt_knows_other_classes(run, tmp_path, caplog):
    run_folder.claim(run, configuration())
    do_something(run)
    (run / "prompt_learner" / "prompt.json").write_text(json.dumps({"classnames": ["fox", "owl"]}))
    with pytest.raises(RecordError, match=r"tuned on 2 classes \(fox, owl\), this run has 2 \(crow, owl\)"):
        run_folder.claim(run, configuration(), lists(tmp_path / "b", ("crow", "owl")))
    with caplog.at_level(logging.WARNING):
        run_folder.claim(run, configuration(), lists(tmp_path / "b", ("crow", "owl")), evaluating=True)
        assert not (run / run_folder.DATA).exists(), "an evaluation does not say what a run was tuned on"
        run_folder.claim(run, configuration(), lists(tmp_path / "a"))
    assert f"they are taken to be those in {tmp_path / 'a'}" in caplog.text
    with pytest.raises(RecordError, match="its train list has 4 images"):
        run_folder.claim(run, configuration(), lists(tmp_path / "c", n=3))


def test_a_title_is_a_name_and_no_part_of_a_run(run, tmp_path):
    run_folder.claim(run, configuration("DATASET.TITLE", "one"), lists(tmp_path / "a"))
    do_something(run)
    run_folder.claim(run, configuration("DATASET.TITLE", "two"), lists(tmp_path / "a"))


@pytest.mark.parametrize(
    "text", ("[]", "{}", '{"records": [[false, 1]]}', '{"records": [["a", 1]]}', '{"records": 1}', "1")
)
def test_what_no_finished_run_leaves_is_named_and_the_run_is_not_done(tmp_path, text):
    (tmp_path / run_folder.DONE).write_text(text)
    (sentence,) = run_folder.problems(tmp_path)
    assert sentence == f"{tmp_path / run_folder.DONE} is not what a finished run leaves; run it again"
    assert not run_folder.is_done(tmp_path, configuration())
