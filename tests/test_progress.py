"""How far a run is: what it writes for the process that started it, and what its own terminal shows."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from pathlib import Path

import pytest

from advpt import progress
from advpt.progress import Bar, Phase, State, each, read


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "state"))
    monkeypatch.setattr(progress, "WRITE_SECONDS", 0.0)
    return tmp_path / "state"


def test_a_phase_is_written_as_it_goes_on(file: Path) -> None:
    phase = Phase("tuning", 10, "epoch", 4)
    first = read(file)
    assert first is not None and (first.phase, first.done, first.total, first.begun_at) == ("tuning", 4, 10, 4)
    assert first.seconds_left is None and str(first) == "tuning, 4 of 10 epochs"
    phase.reach(5.5)
    now = read(file)
    assert now is not None and now.done == 5.5 and str(now).startswith("tuning, 5.5 of 10 epochs, 00:0")
    assert [path.name for path in file.parent.iterdir()] == ["state"], "nothing else is left there"


def test_time_left_counts_from_where_the_phase_began() -> None:
    state = State("tuning", 6, 10, "epoch", seconds=30.0, begun_at=4)
    assert state.seconds_left == 60 and str(state) == "tuning, 6 of 10 epochs, 01:00 left"
    assert (
        str(State("pgd on train", 1200, 2400, "image", 7200.0)) == "pgd on train, 1,200 of 2,400 images, 2:00:00 left"
    )


def test_states_are_not_written_more_often_than_anyone_reads_but_the_last_one_is(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "WRITE_SECONDS", 100.0)
    phase = Phase("x", 10, "image")
    phase.reach(5)
    assert (state := read(file)) is not None and state.done == 0
    phase.reach(10)
    assert (state := read(file)) is not None and state.done == 10


def test_without_the_variable_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with Bar("x", 2, "image") as bar:
        bar.update(2)
    assert bar.done == 2 and not list(tmp_path.iterdir())


def test_a_run_never_fails_for_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "nowhere" / "state"))
    Phase("x", 10, "image").reach(10)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"phase": "x", "done": [], "total": 1, "unit": "y"}'])
def test_what_is_no_state_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state"
    path.write_text(text)
    assert read(path) is None and read(tmp_path / "nothing") is None


def test_a_bar_is_drawn_on_a_terminal_and_reported_everywhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Bar("pgd on train", 3, "image") as bar:
            bar.update()
            bar.set_postfix_str("2 workers")
            bar.update(2)
        terminal.flush()
        drawn = ""
        while "\n" not in drawn:
            drawn += os.read(reader, 65536).decode()
    os.close(reader)
    assert "pgd on train" in drawn and "3/3" in drawn and "2 workers" in drawn
    assert (state := read(file)) is not None and (state.done, state.total, state.unit) == (3, 3, "image")


def test_a_bar_need_not_be_shown(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Bar("images", 1, "image", shown=False) as bar:
        bar.update()
    assert terminal.getvalue() == "" and (state := read(file)) is not None and state.done == 1


def test_items_are_reported_as_they_are_asked_for(file: Path) -> None:
    seen = []
    for item in each("ab", "evaluation", 2, "attack"):
        state = read(file)
        assert state is not None
        seen.append((item, state.done))
    assert seen == [("a", 0), ("b", 1)]
