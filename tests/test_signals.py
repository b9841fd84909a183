"""Signals: one at a time is acted upon, and the handlers of before come back."""

from __future__ import annotations

import os
import signal

import pytest

from advpt.signals import Terminated, held, stoppable


def test_signals_are_held_and_handlers_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Terminated), stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Terminated), held() as told:
        assert told() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert isinstance(told(), Terminated)
    with pytest.raises(KeyboardInterrupt) as caught, held() as told:
        os.kill(os.getpid(), signal.SIGINT)
        assert type(told()) is KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("a second Ctrl-C is obeyed at once")
    assert type(caught.value) is KeyboardInterrupt
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
