"""The verb ``defenses``."""

from __future__ import annotations

from advpt.cli import main
from advpt.defenses.base import DEFENSES


def test_the_verb_lists_defenses(capsys):

    assert main(["defenses"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}:" in shown for name in DEFENSES)
    assert main(["defenses", "super+rescale"]) == 0
    assert "super:advpt/sigma=0.02/" in capsys.readouterr().out
