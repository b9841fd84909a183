"""Where an executor writes what happens: lines that stay, and on a terminal one line per running job that changes."""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Callable, Sequence
from typing import TextIO

PLAIN_SECONDS = 60.0  # between two states of the running jobs where lines cannot be rewritten


class Display:
    """Lines for logs and pipes: events, and once in a while what the running jobs do.

    Args:
        write: takes one line. seconds: between two states.
    """

    def __init__(self, write: Callable[[str], object], seconds: float = PLAIN_SECONDS) -> None:
        self.write, self.seconds = write, seconds
        self._last, self._lines = time.monotonic(), list[str]()

    def event(self, line: str) -> None:
        """Something began or ended."""
        self.write(line)

    def status(self, lines: Sequence[str]) -> None:
        """What the running jobs do now, a line for each; asked for again and again, empty at the end."""
        if time.monotonic() - self._last >= self.seconds:
            self._last = time.monotonic()
            for line in lines:
                if line not in self._lines:
                    self.write(f"running   {line}")
            self._lines = list(lines)


class TerminalDisplay(Display):
    """Events scroll by; below them stands one line per running job, rewritten in place."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream.write)
        self.stream = stream

    def event(self, line: str) -> None:
        self._show(f"{line}\n", self._lines)

    def status(self, lines: Sequence[str]) -> None:
        width = shutil.get_terminal_size().columns - 1
        shown = [line if len(line) <= width else f"{line[: max(0, width - 3)]}..." for line in lines]
        if shown != self._lines:
            self._show("", shown)

    def _show(self, text: str, lines: list[str]) -> None:
        up = f"\x1b[{len(self._lines)}F\x1b[J" if self._lines else ""  # to the first of the old lines, erase from there
        self.stream.write(up + text + "".join(f"{line}\n" for line in lines))
        self.stream.flush()
        self._lines = lines


def display_on(stream: TextIO) -> Display:
    """A terminal's lines are rewritten; elsewhere lines are added."""
    if stream.isatty() and os.environ.get("TERM", "") != "dumb":
        return TerminalDisplay(stream)
    return Display(functools.partial(print, file=stream, flush=True))


def in_words(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``, ``2.1 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
