"""What came after format v1 stays out of files where it has the value that old files mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dassl.config import get_cfg_default

from advpt import additions
from advpt.errors import RecordError
from advpt.evaluation import run_folder
from advpt.settings import extend_cfg, plain

V1 = Path(__file__).with_name("v1")


def configuration():
    cfg = get_cfg_default()
    extend_cfg(cfg)
    return cfg


def test_the_defaults_are_those_of_v1():
    """Whoever adds a leaf adds it to ``additions.SETTINGS``; whoever changes a default breaks every old folder."""
    assert plain(configuration()) == json.loads((V1 / "settings.json").read_text())


@pytest.mark.parametrize("name", additions.SETTINGS)
def test_an_added_leaf_exists_with_its_default(name):
    cfg = configuration()
    *nodes, leaf = name.split(".")
    for node in nodes:
        cfg = cfg[node]
    assert cfg[leaf] == additions.SETTINGS[name]


@pytest.fixture
def added(monkeypatch):
    """A leaf and fields that came later."""
    monkeypatch.setitem(additions.SETTINGS, "MODEL.NEW", ())
    monkeypatch.setitem(additions.SETTINGS, "EVAL.NEW", 1.0)

    def make(**values):
        cfg = configuration()
        cfg.MODEL.NEW, cfg.EVAL.NEW = values.get("model", ()), values.get("evaluation", 1.0)
        return cfg

    return make


def test_an_old_folder_goes_on_with_a_new_leaf_at_its_default(tmp_path, added):
    run_folder.claim(tmp_path, configuration())  # as before the leaf was there
    (tmp_path / "prompt_learner").mkdir()  # what it trained
    run_folder.claim(tmp_path, added())
    with pytest.raises(RecordError, match=r"MODEL.NEW: the folder has \[\], this run \[3\]"):
        run_folder.claim(tmp_path, added(model=(3,)))


def test_a_new_leaf_is_kept_where_it_is_not_at_its_default(tmp_path, added):
    run_folder.claim(tmp_path, added(model=(3,)))
    assert json.loads((tmp_path / run_folder.FILE).read_text())["MODEL.NEW"] == [3]
    (tmp_path / "prompt_learner").mkdir()  # what it trained
    run_folder.claim(tmp_path, added(model=(3,)))
    with pytest.raises(RecordError, match=r"MODEL.NEW: the folder has \[3\], this run \[\]"):
        run_folder.claim(tmp_path, added())
    run_folder.claim(tmp_path / "default", added())
    assert "MODEL.NEW" not in json.loads((tmp_path / "default" / run_folder.FILE).read_text())


def test_a_folder_that_spells_the_default_out_goes_on(tmp_path, added):
    run_folder.claim(tmp_path, configuration())
    spelled = json.loads((tmp_path / run_folder.FILE).read_text()) | {"MODEL.NEW": [], "EVAL.NEW": 3.0}
    (tmp_path / run_folder.FILE).write_text(json.dumps(spelled))
    (tmp_path / "prompt_learner").mkdir()  # what it trained
    run_folder.claim(tmp_path, added())
    assert json.loads((tmp_path / run_folder.FILE).read_text()) == spelled, "as it was"
    with pytest.raises(RecordError, match=r"MODEL.NEW: the folder has \[\], this run \[3\]"):
        run_folder.claim(tmp_path, added(model=(3,)))


def test_what_is_evaluated_is_equal_with_a_new_leaf_at_its_default(added):
    assert run_folder.evaluation_settings(added()) == run_folder.evaluation_settings(configuration())
    assert run_folder.evaluation_settings(added(evaluation=2.0))["EVAL.NEW"] == 2.0


def test_omit_goes_into_objects_and_lists():
    table = {"a.b": None, "list.new": 1}
    fields = {"a": {"b": None, "c": None}, "list": [{"new": 1, "x": 0}, {"new": 2}], "b": None}
    assert additions.omit(fields, table) == {"a": {"c": None}, "list": [{"x": 0}, {"new": 2}], "b": None}
    assert additions.omit({"b": None}, table, "a.") == {}
    assert additions.omit({"a": {"b": False}}, {"a.b": 0}) == {"a": {"b": False}}  # False is no number
