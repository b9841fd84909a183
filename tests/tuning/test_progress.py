"""Times and accuracies of a run, kept over kills."""

from __future__ import annotations

from advpt.tuning.progress import Progress


def test_what_lies_behind_the_checkpoint_is_dropped(tmp_path):
    path = tmp_path / "progress.json"
    first = Progress(path, before=5.0)
    for epoch in (1, 2, 3):
        first.add(epoch / 10)
        first.measured[epoch] = {"clean": {"accuracy": epoch}}
        first.save()
    again = Progress(path, done=2, before=None)
    assert again.times() == {"before": 5.0, "epochs": [0.1, 0.2]}
    assert again.curve() == [{"epoch": 1, "clean": {"accuracy": 1}}, {"epoch": 2, "clean": {"accuracy": 2}}]
    assert Progress(path).times() == {"before": 0.0, "epochs": []}, "from the beginning, nothing counts"
