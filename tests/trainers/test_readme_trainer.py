"""The README's example of a trainer, run as it stands."""

from __future__ import annotations

import re
import textwrap

from dassl.engine import TRAINER_REGISTRY
from small_world import ROOT

import advpt.settings


def test_the_trainer_example_trains(world):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"^    # trainers/mine\.py.*?(?=^\S)", readme, flags=re.MULTILINE | re.DOTALL)[0]
    exec(textwrap.dedent(code), {})
    try:
        printed = world.run(trainer="Mine")
        assert "epoch [3/3]" in printed and "* robust_accuracy:" in printed
    finally:
        TRAINER_REGISTRY._items.pop("Mine")
    assert not [name for name in advpt.settings.DEFAULTS if name.startswith("TRAINER.MINE.")]
