"""What each epoch of a run took, what its losses were and what it reached, kept so that a killed run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advpt.detectors import LossWatch
from advpt.errors import RecordError
from advpt.files import read_json, write_json

FILE = "progress.json"


class Progress:
    """Epochs done (counted from 1), seconds spent training in each, and what was measured after some of them.

    The file is written before the epoch's checkpoint, and rows behind the checkpoint that a run goes on from are
    dropped: so the times are those of the epochs that count, whatever was killed in between. Time for measuring is not
    counted.
    """

    def __init__(self, path: Path, done: int = 0, before: float | None = 0.0, watch: LossWatch | None = None) -> None:
        """``done``: epochs of the checkpoint gone on from; ``before``: seconds for the training input, None if
        unknown; ``watch``: what has seen the losses.

        Raises:
            RecordError: the file of the epochs that are done is damaged.
        """
        self.path, self.before, self.watch = path, before, watch or LossWatch()
        self.seconds: list[float] = []
        self.measured: dict[int, dict[str, Any]] = {}
        if done and path.is_file():
            saved = read_json(path, RecordError)
            try:
                self.seconds = [float(value) for value in saved["seconds"][:done]]
                self.measured = {int(e): dict(found) for e, found in saved["measured"].items() if int(e) <= done}
                self.before = saved["before"] if saved["before"] is None else float(saved["before"])
                self.watch.go_on(saved.get("losses", {}), done)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RecordError(
                    f"{path} is not what a run leaves (found {error!r} where times and losses were expected); "
                    "delete it: times and losses are then those of the epochs to come"
                ) from error

    def add(self, seconds: float) -> None:
        """An epoch of training is over."""
        self.seconds.append(round(seconds, 4))

    def note(self, epoch: int, found: dict[str, Any]) -> None:
        """What was measured after an epoch."""
        self.measured[epoch] = found

    def save(self) -> None:
        said = {"seconds": self.seconds, "measured": self.measured, "before": self.before}
        write_json(self.path, said | {"losses": self.watch.state()})

    def curve(self) -> list[dict[str, Any]]:
        """For a record's ``result``: the epoch and what was measured after it."""
        return [{"epoch": epoch} | found for epoch, found in sorted(self.measured.items())]

    def times(self) -> dict[str, Any]:
        """For a record's ``observed``: seconds for the training input, and for each epoch."""
        return {"before": self.before, "epochs": self.seconds}
