"""The verb ``defenses``."""

from __future__ import annotations

import dataclasses

from advpt.cli import main
from advpt.defenses.base import DEFENSES
from advpt.test_time import TEST_TIME


def test_the_verb_lists_defenses(capsys):

    assert main(["defenses"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}:" in shown for name in DEFENSES)
    assert main(["defenses", "super+rescale"]) == 0
    assert "super:advpt/sigma=0.02/" in capsys.readouterr().out


def test_the_verb_lists_defenses_at_test_time_and_expands_one_behind_others(capsys):
    assert main(["defenses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in TEST_TIME:
        for profile, settings in TEST_TIME.get(name).profiles.items():
            (line,) = [line for line in lines if line.startswith(f"{name}:{profile} ")]
            assert all(f"{key}={value}" in line for key, value in dataclasses.asdict(settings).items())
    assert main(["defenses", "rescale + clipure/share=0.3"]) == 0
    printed = capsys.readouterr().out
    assert "= rescale:" in printed and "+clipure:sound/share=0.3/steps=0" in printed
