"""Times and accuracies of a run, kept over kills."""

from __future__ import annotations

import pytest

from advpt.tuning.progress import Progress, wall_clock


def test_what_lies_behind_the_checkpoint_is_dropped(tmp_path):
    path = tmp_path / "progress.json"
    first = Progress(path, before=5.0)
    for epoch in (1, 2, 3):
        first.add(epoch / 10)
        first.note(epoch, {"clean": {"accuracy": epoch}})
        first.save()
    again = Progress(path, done=2, before=None)
    assert again.times() == {"before": 5.0, "epochs": [0.1, 0.2]}
    assert again.curve() == [{"epoch": 1, "clean": {"accuracy": 1}}, {"epoch": 2, "clean": {"accuracy": 2}}]
    assert Progress(path).times() == {"before": 0.0, "epochs": []}, "from the beginning, nothing counts"


def test_the_wall_clock_includes_the_training_input():
    times = {"before": 5.0, "epochs": [1.0, 2.0]}
    assert wall_clock(times, 2) == 8.0 and wall_clock(times, 0) == 5.0
    assert wall_clock(times | {"before": None}, 1) is None and wall_clock(times, 3) is None
    with pytest.raises(KeyError):
        wall_clock({"before": 1.0}, 1)
