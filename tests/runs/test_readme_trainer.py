"""The README's example of a trainer, run as it stands."""

from __future__ import annotations

import re
import textwrap

from dassl.engine import TRAINER_REGISTRY

import advpt.settings
from tests.helpers.workspace import ROOT


def test_the_trainer_example_trains(workspace):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^    # trainers/mine\.py.*?(?=^\S)", readme, flags=re.MULTILINE | re.DOTALL)[0]
    exec(textwrap.dedent(code), {})
    try:
        printed = workspace.run(trainer="Mine")
        assert "epoch [3/3]" in printed and "* robust_accuracy:" in printed
    finally:
        TRAINER_REGISTRY._items.pop("Mine")
    assert not [name for name in advpt.settings.DEFAULTS if name.startswith("TRAINER.MINE.")]


def test_the_settings_example_makes_leaves():
    from advpt import additions, settings

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^    from advpt\.settings import TextContext.*?(?=^\S)", readme, flags=re.MULTILINE | re.DOTALL)[
        0
    ]
    tables = (settings.LEAVES, settings.DEFAULTS, settings.RANGES, additions.SETTINGS)
    before = [dict(each) for each in tables]
    try:
        names: dict[str, type[settings.Settings]] = {}
        exec(textwrap.dedent(code), names)
        assert settings.DEFAULTS["TRAINER.MINE.RATE"] == 0.5 and settings.DEFAULTS["TRAINER.MINE.N_CTX"] == 16
        assert names["MineSettings"].from_flat({"TRAINER.MINE.RATE": 0.25}).rate == 0.25
    finally:
        for each, values in zip(tables, before):
            each.clear()
            each.update(values)
