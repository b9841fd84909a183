"""Signals: one at a time is acted upon, and the handlers of before come back."""

from __future__ import annotations

import os
import signal

import pytest

from advpt.signals import Terminated, defer_signals, stoppable


def test_signals_are_held_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Terminated), stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Terminated), defer_signals() as pending_signal:
        assert pending_signal() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert isinstance(pending_signal(), Terminated)
    with pytest.raises(KeyboardInterrupt) as caught, defer_signals() as pending_signal:
        os.kill(os.getpid(), signal.SIGINT)
        assert type(pending_signal()) is KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("a second Ctrl-C is obeyed at once")
    assert type(caught.value) is KeyboardInterrupt
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
