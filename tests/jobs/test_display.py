"""What a plan shows: on a terminal one line for each running job, rewritten in place; elsewhere plain lines."""

from __future__ import annotations

import io
import os
import pty
import re

import pytest

from advpt.jobs.display import Display, TerminalDisplay, display_on, in_words


def screen(text: str) -> list[str]:
    """The lines that stand on a terminal after it got ``text``."""
    lines, at = [""], 0
    for part in re.split(r"(\x1b\[\d+F|\x1b\[J|\r?\n)", text):
        if match := re.fullmatch(r"\x1b\[(\d+)F", part):
            at -= int(match[1])
        elif part == "\x1b[J":
            del lines[at:]
            lines.append("")
        elif part.endswith("\n"):
            at += 1
            lines += [""] * (at + 1 - len(lines))
        else:
            lines[at] = part or lines[at]
    return [line for line in lines if line]


def test_jobs_have_a_line_each_that_is_rewritten_and_events_stay_above() -> None:
    stream = io.StringIO()
    display = TerminalDisplay(stream)
    display.event("started   one")
    display.status(["one: 1 of 9", "two: starting"])
    display.status(["one: 2 of 9", "two: 1 of 4"])
    display.event("done      two")
    assert screen(stream.getvalue()) == ["started   one", "done      two", "one: 2 of 9", "two: 1 of 4"]
    display.status(["one: 3 of 9"])
    assert screen(stream.getvalue()) == ["started   one", "done      two", "one: 3 of 9"]
    before = stream.getvalue()
    display.status(["one: 3 of 9"])
    assert stream.getvalue() == before, "nothing is drawn where nothing changed"
    display.status([])
    assert screen(stream.getvalue()) == ["started   one", "done      two"]


def test_a_line_that_is_wider_than_the_terminal_is_cut(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = io.StringIO()
    TerminalDisplay(stream).status(["x" * 50])
    assert screen(stream.getvalue()) == ["x" * 16 + "..."]


def test_elsewhere_states_are_lines_once_in_a_while() -> None:
    lines: list[str] = []
    display = Display(lines.append, seconds=0.0)
    display.event("started   one")
    display.status(["one: 1 of 9"])
    display.status(["one: 1 of 9"])
    display.status(["one: 2 of 9"])
    assert lines == ["started   one", "running   one: 1 of 9", "running   one: 2 of 9"]
    quiet: list[str] = []
    Display(quiet.append, seconds=100.0).status(["one: 1 of 9"])
    assert quiet == []


def test_a_terminal_is_told_from_a_pipe(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        assert isinstance(display_on(terminal), TerminalDisplay)
        monkeypatch.setenv("TERM", "dumb")
        assert type(display_on(terminal)) is Display
    os.close(reader)
    pipe = io.StringIO()
    display_on(pipe).event("done")
    assert pipe.getvalue() == "done\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12_240, "3.4 h"), (86400 * 3.2, "3.2 days")]
)
def test_times_in_words(seconds, text):
    assert in_words(seconds) == text
