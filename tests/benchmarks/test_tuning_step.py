"""Steps that tune prompts, against the code that they take the place of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_open_clips_text_tower_is_tuned_eight_times_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import tuning_step

    row = tuning_step.of_open_clip(2)
    assert row.met, (row.ratio, row.how)
