"""CONTRIBUTING.md's shortest trainer, run as it stands, and the settings of its longer one."""

from __future__ import annotations

import re
import textwrap

from dassl.engine import TRAINER_REGISTRY

from tests.helpers.workspace import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## Add a trainer\n")[1].split("\n## ")[0]
BLOCKS = [textwrap.dedent(each).strip() for each in re.findall(r"(?:^ {4}.*\n|^\n)+", TEXT, flags=re.MULTILINE)]


def block(word: str) -> str:
    (code,) = [each for each in BLOCKS if word in each]
    return code


def test_the_trainer_example_trains(workspace):
    exec(block("class Mine(PromptTrainer)"), {})
    try:
        printed = workspace.run(trainer="Mine")
        assert "epoch [3/3]" in printed and "* robust_accuracy:" in printed
    finally:
        TRAINER_REGISTRY._items.pop("Mine")


def test_the_settings_example_makes_leaves():
    from advpt import additions, settings

    code = re.search(r"^@register.*?(?=\n\n\n)", block("class SmoothSettings"), flags=re.MULTILINE | re.DOTALL)[0]
    tables = (settings.LEAVES, settings.DEFAULTS, settings.RANGES, additions.SETTINGS)
    before = [dict(each) for each in tables]
    try:
        names: dict[str, type[settings.Settings]] = {}
        exec(f"from advpt.settings import SHARE, TextContext, register, setting\n{code}", names)
        assert settings.DEFAULTS["TRAINER.SMOOTH.SMOOTHING"] == 0.1 and settings.DEFAULTS["TRAINER.SMOOTH.N_CTX"] == 16
        assert names["SmoothSettings"].from_flat({"TRAINER.SMOOTH.SMOOTHING": 0.25}).smoothing == 0.25
    finally:
        for each, values in zip(tables, before):
            each.clear()
            each.update(values)
