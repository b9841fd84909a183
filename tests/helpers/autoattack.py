"""AutoAttack in fewer iterations."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from advpt.attacks import autoattack


def shorten(monkeypatch: pytest.MonkeyPatch, iterations: int, queries: int | None = None) -> None:
    """APGD makes so many iterations in place of a hundred; with ``queries`` FAB too, and Square so many queries in
    place of 5,000."""
    real = autoattack.evaluate

    def short(attack: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = iterations
        if queries is not None:
            attack.fab.n_iter, attack.square.n_queries = iterations, queries
        return real(attack, x, y)

    monkeypatch.setattr(autoattack, "evaluate", short)
