"""The setups of reproductions: what their files must hold."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from advpt.jobs import setup as module
from advpt.jobs.setup import DEMO, PAPER


def texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, str) for each in value)


@pytest.mark.parametrize("setup", [PAPER, DEMO], ids=lambda s: s.name)
def test_names_are_tuples_of_texts_and_settings_are_pairs(setup):
    for values in (asdict(setup), asdict(setup.peers), asdict(setup.tapt)):
        for name in ("datasets", "probed", "targets", "backbones", "timed", "timed_backbones", "budgets"):
            assert texts(values.get(name, ())), name
        for name in ("common", "settings", "pretraining", "context"):
            assert all(texts(pair) and len(pair) == 2 for pair in values.get(name, ())), name
    assert {*setup.datasets, *setup.targets, *setup.backbones, *setup.tapt.datasets} <= setup.names.keys()
    assert hash(setup.common) and setup.defense("diffpure").published == "diffpure"


@pytest.mark.parametrize(("old", "new"), [("bank =", "banc ="), ("seeds = [1, 2, 3]\n", "")])
def test_a_name_that_no_field_has_and_a_field_without_value_are_refused(old, new, tmp_path, monkeypatch):
    text = Path(module.__file__).with_name("demo.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(TypeError, match="banc|seeds"):
        module._load("mine")
