"""How far a run is, for its own terminal and for the process that started it.

A process with ``ADVPT_PROGRESS`` in its environment keeps one JSON object in that file: the phase it is in and how much
of it is done. Without the variable nothing is written. Losing such a file loses nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

VARIABLE = "ADVPT_PROGRESS"
WRITE_SECONDS = 0.5  # at least, between two states on disk

Item = TypeVar("Item")


@dataclass(frozen=True)
class State:
    """How far a phase is.

    Args:
        phase: what is done, for instance ``pgd10 on train``. done, total: of ``unit``. seconds: since it began.
        begun_at: what was done when it began (a continued run's epochs).
    """

    phase: str
    done: float
    total: float
    unit: str
    seconds: float = 0.0
    begun_at: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end of the phase at the pace so far; None before anything was done."""
        made = self.done - self.begun_at
        return self.seconds * (self.total - self.done) / made if made > 0 else None

    def __str__(self) -> str:
        """``pgd10 on train, 312 of 897 images, 1:05 left``."""
        done, total = (f"{n:,.0f}" if n == int(n) else f"{n:,.1f}" for n in (self.done, self.total))
        text = f"{self.phase}, {done} of {total} {self.unit}s"
        return text if self.seconds_left is None else f"{text}, {tqdm.format_interval(self.seconds_left)} left"


def read(path: Path) -> State | None:
    """What a process last wrote; None where there is nothing, or nothing whole."""
    try:
        state = State(**json.loads(path.read_text(encoding="utf-8")))
        float(state.done), float(state.total), float(state.seconds), float(state.begun_at)
    except (OSError, ValueError, TypeError):
        return None
    return state


class Phase:
    """One phase of a run, reported to the file of ``ADVPT_PROGRESS``.

    Args:
        name, total, unit: as in :class:`State`. done: where it begins.
    """

    def __init__(self, name: str, total: float, unit: str, done: float = 0.0) -> None:
        self.begin = State(name, done, total, unit, begun_at=done)
        self.path = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
        self._begun, self._written = time.monotonic(), float("-inf")
        self.reach(done)

    def reach(self, done: float) -> None:
        """So much is done by now."""
        now = time.monotonic()
        if self.path is None or (now - self._written < WRITE_SECONDS and done < self.begin.total):
            return
        self._written = now
        state = replace(self.begin, done=round(done, 2), seconds=round(now - self._begun, 2))
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a run never fails for its progress
            partial.write_text(json.dumps(asdict(state)), encoding="utf-8")
            partial.replace(self.path)


class Bar:
    """A progress bar on a terminal whose numbers are a :class:`Phase` too; a context manager, as tqdm's own.
    ``shown``: False where other lines are written there meanwhile."""

    def __init__(self, name: str, total: int, unit: str, *, shown: bool = True) -> None:
        self.phase, self.done = Phase(name, total, unit), 0
        self._bar = tqdm(total=total, desc=name, unit=unit, disable=None if shown else True)

    def update(self, n: int = 1) -> None:
        """``n`` more are done."""
        self.done += n
        self._bar.update(n)
        self.phase.reach(self.done)

    def set_postfix_str(self, text: str) -> None:
        """A remark behind the bar."""
        self._bar.set_postfix_str(text)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def each(items: Iterable[Item], name: str, total: int, unit: str) -> Iterator[Item]:
    """The items, each reported as done when the next one is asked for."""
    phase = Phase(name, total, unit)
    for number, item in enumerate(items):
        phase.reach(number)
        yield item
