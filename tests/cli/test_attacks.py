"""The verb ``attacks``."""

from __future__ import annotations

from advpt.cli import main


def test_attacks_expand(capsys):
    assert main(["attacks", "pgd40@16"]) == 0
    assert "pgd40@16 = pgd40-fkl@16/a0.5" in capsys.readouterr().out
    assert main(["attacks"]) == 0
    assert "cross-entropy to the true label" in capsys.readouterr().out
