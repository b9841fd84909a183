"""What the benchmarks measure, kept in a file from the first figure on, and how it is shown."""

import contextlib
import dataclasses
import json
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tabulate import tabulate

log = logging.getLogger(__name__)
HEADS = ("part", "measured", "value", "unit", "reference", "ratio", "wanted", "met")


@dataclass(frozen=True)
class Measurement:
    """One figure of one part.

    Args:
        label: what was measured.
        value: the figure, in ``unit``.
        reference: what it is compared with, in the same unit (None: nothing).
        ratio: of the two, above 1 where ours is the better one, unless ``note`` says otherwise.
        wanted: the goal in words, "" where there is none.
        met: whether the goal was reached, None where there is none.
        note: sizes, repeats, deviations.
    """

    label: str
    value: float
    unit: str = "s"
    reference: float | None = None
    ratio: float | None = None
    wanted: str = ""
    met: bool | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """Its row of a table."""
        value, reference, ratio = (
            "" if number is None else f"{number:.4g}" for number in (self.value, self.reference, self.ratio)
        )
        met = {True: "yes", False: "NO", None: ""}[self.met]
        return [self.label, value, self.unit, reference, ratio, self.wanted, met]


@dataclass
class Report:
    """Collects the figures of a part and writes them to ``path`` after each one, so that nothing measured is lost when
    the part fails or runs out of time.

    Args:
        path: JSON file of this part's results.
        small: smaller sizes, to try the part rather than to measure.
        deadline: on the clock of :func:`time.monotonic`; work that would pass it should not begin.
        fail: raise at the first figure, which shows that the other parts go on.
    """

    path: Path
    small: bool = False
    deadline: float = math.inf
    fail: bool = False
    measurements: list[Measurement] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], path: Path = Path()) -> Self:
        """What :meth:`fields` gives, as it comes from a file."""
        measurements = [Measurement(**each) for each in fields["measurements"]]
        return cls(
            path, measurements=measurements, **{name: fields[name] for name in ("tables", "failures", "skipped")}
        )

    def fields(self) -> dict[str, object]:
        """What is written to the file."""
        measurements = [dataclasses.asdict(each) for each in self.measurements]
        return {"measurements": measurements, "tables": self.tables, "failures": self.failures, "skipped": self.skipped}

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.fields(), indent=1))
        partial.replace(self.path)

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

    def compare(
        self, label: str, ours: float, reference: float, unit: str = "s", wanted: float | None = None, note: str = ""
    ) -> None:
        """Keep how many times as fast ours is as a reference; ``wanted`` is that factor."""
        ratio = reference / ours
        goal, met = ("", None) if wanted is None else (f"{wanted:g}x", ratio >= wanted)
        self.add(Measurement(label, ours, unit, reference, ratio, goal, met, note))

    @contextlib.contextmanager
    def step(self, label: str) -> Iterator[None]:
        """Around a step whose failure the part survives: the traceback is kept and the next step begins."""
        try:
            yield
        except Exception:  # noqa: BLE001 - on a strange machine anything may break, and the rest still counts
            self.failures[label] = traceback.format_exc()
            log.warning("%s failed:\n%s", label, self.failures[label])
            self.write()

    def attempt(self, label: str, seconds: float, work: Callable[..., None], *arguments: object) -> None:
        """A step of about ``seconds``: listed as skipped where they are not left, and survived where it fails."""
        left = self.deadline - time.monotonic()
        if left >= seconds:
            with self.step(label):
                work(*arguments)
        else:
            self.skipped.append(f"{label} (needs about {seconds:.0f} s, {left:.0f} s left)")
            self.write()


def table(parts: Mapping[str, Report], style: str) -> str:
    """All figures, and the steps that failed."""
    rows = [[name, *each.cells()] for name, part in parts.items() for each in part.measurements]
    rows += [[name, f"FAILED: {label}"] for name, part in parts.items() for label in part.failures]
    return tabulate(rows, HEADS, tablefmt=style, disable_numparse=True)


def describe(parts: Mapping[str, Report]) -> str:
    """All parts as Markdown: the table, its notes, then tables of operators and tracebacks."""
    lines = [table(parts, "github"), ""]
    for name, part in parts.items():
        lines += [f"- {name}, {each.label}: {each.note}." for each in part.measurements if each.note]
        lines += [f"- {name}: skipped {label}." for label in part.skipped]
    for name, part in parts.items():
        failures = {f"FAILED: {label}": text for label, text in part.failures.items()}
        for title, text in (part.tables | failures).items():
            lines += ["", f"### {name}: {title}", "", "```", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"
