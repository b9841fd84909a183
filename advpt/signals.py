"""SIGTERM ends a process as Ctrl-C does, and both can be deferred until a state is whole."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

TERMINATED, INTERRUPTED = 143, 130  # exit statuses, as shells have them: 128 + SIGTERM, SIGINT


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Files are whole; the same command goes on from them."""


def report_stop(stop: KeyboardInterrupt) -> int:
    """Tell the user that a command was stopped; its exit status."""
    by, status = (" by SIGTERM", TERMINATED) if isinstance(stop, Terminated) else ("", INTERRUPTED)
    sys.stderr.write(f"stopped{by}; the same command continues where it was\n")
    return status


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within the block SIGTERM raises :class:`Terminated`, where by default it ends the process on the spot."""
    if not _in_main_thread():  # only there Python may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def defer_signals() -> Iterator[Callable[[], KeyboardInterrupt | None]]:
    """Within the block a first SIGTERM or Ctrl-C waits until the block ends; a second Ctrl-C is obeyed at once.

    Yields:
        A function that gives the exception that is waiting to be raised, if any.
    """
    waiting: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in waiting:
            raise KeyboardInterrupt
        waiting.append(number)

    def pending_signal() -> KeyboardInterrupt | None:
        return (Terminated() if signal.SIGTERM in waiting else KeyboardInterrupt()) if waiting else None

    if not _in_main_thread():
        yield pending_signal
        return
    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield pending_signal
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop := pending_signal():
        raise stop
