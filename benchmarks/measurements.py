"""What the parts of ``gpu.py`` measure, kept in a file from the first figure on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """One figure of one part.

    Args:
        label: what was measured.
        value: the figure, in ``unit``.
        reference: what it is compared with, in the same unit (None: nothing).
        ratio: of the two, as ``note`` says.
        wanted: the goal in words, "" where there is none.
        met: whether the goal was reached, None where there is none.
        note: sizes, repeats, deviations.
    """

    label: str
    value: float | None
    unit: str = "s"
    reference: float | None = None
    ratio: float | None = None
    wanted: str = ""
    met: bool | None = None
    note: str = ""


@dataclass
class Report:
    """Collects the figures of a part and writes them to ``path`` after each one, so that nothing measured is lost when
    the part fails or runs out of time.

    Args:
        path: JSON file of this part's results.
        deadline: on the clock of :func:`time.monotonic`; work that would pass it should not begin.
        small: sizes for a CPU, to try the part rather than to measure.
        fail: raise at the first figure, which shows that the other parts go on.
    """

    path: Path
    deadline: float
    small: bool = False
    fail: bool = False
    measurements: list[Measurement] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where the part runs."""
        return torch.device("cpu" if self.small or not torch.cuda.is_available() else "cuda")

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def add(self, measurement: Measurement) -> None:
        """Keep a figure.

        Raises:
            RuntimeError: the part was told to fail.
        """
        self.measurements.append(measurement)
        self.write()
        log.info("%s: %s %s", measurement.label, measurement.value, measurement.unit)
        if self.fail:
            self.fail = False
            raise RuntimeError("this part was told to fail (--fail)")

    def add_table(self, title: str, text: str) -> None:
        """Keep a text of several lines."""
        self.tables[title] = text
        self.write()

    @contextlib.contextmanager
    def step(self, label: str) -> Iterator[None]:
        """Around a step whose failure the part survives: the traceback is kept and the next step begins."""
        try:
            yield
        except Exception:  # noqa: BLE001 - on a strange machine anything may break, and the rest still counts
            self.failures[label] = traceback.format_exc()
            log.warning("%s failed:\n%s", label, self.failures[label])
            self.write()

    def has_time(self, label: str, seconds: float) -> bool:
        """Whether a step of about ``seconds`` still fits; one that does not is listed as skipped."""
        if self.seconds_left >= seconds:
            return True
        self.skipped.append(f"{label} (needs about {seconds:.0f} s, {self.seconds_left:.0f} s left)")
        self.write()
        return False

    def write(self) -> None:
        names = ("tables", "failures", "skipped")
        fields = {"measurements": [dataclasses.asdict(each) for each in self.measurements]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(fields | {name: getattr(self, name) for name in names}, indent=1))
        partial.replace(self.path)
