"""Waiting for something that can be seen, in the place of a guess at how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Until ``condition`` holds. Fails the test where it does not come to that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} seconds for what did not happen"
        time.sleep(0.01)
