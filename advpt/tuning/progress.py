"""Time, losses and measured accuracy of each epoch of a run, on disk so that a killed run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advpt.detectors import LossWatch
from advpt.errors import RecordError
from advpt.files import read_json, write_json

FILE = "progress.json"


class Progress:
    """``seconds`` spent training in each finished epoch, and accuracy ``measured`` after some of them (counted from 1).

    The file is written before the epoch's checkpoint, and rows behind the checkpoint that a run goes on from are
    dropped: so the times are those of the epochs that count, whatever was killed in between.
    """

    def __init__(self, path: Path, done: int = 0, before: float | None = 0.0, watch: LossWatch | None = None) -> None:
        """
        Args:
            done: epochs of the checkpoint that the run goes on from. watch: the detectors of the losses.
            before: seconds for the training input, None if unknown.

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
                self.measured = {int(e): dict(point) for e, point in saved["measured"].items() if int(e) <= done}
                self.before = saved["before"] if saved["before"] is None else float(saved["before"])
                self.watch.go_on(saved.get("losses", {}), done)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RecordError(
                    f"{path} is not what a run leaves (found {error!r} where times and losses were expected); "
                    "delete it: times and losses are then those of the epochs to come"
                ) from error

    def add(self, seconds: float) -> None:
        """Add the seconds of a finished epoch."""
        self.seconds.append(round(seconds, 4))

    def save(self) -> None:
        times = {"seconds": self.seconds, "measured": self.measured, "before": self.before}
        write_json(self.path, times | {"losses": self.watch.state()})

    def curve(self) -> list[dict[str, Any]]:
        """Each measured epoch with its accuracy, for a record's ``result``."""
        return [{"epoch": epoch} | point for epoch, point in sorted(self.measured.items())]

    def times(self) -> dict[str, Any]:
        """Seconds for the training input and for each epoch, for a record's ``observed``."""
        return {"before": self.before, "epochs": self.seconds}
