"""The local server of the tests of ``prepare``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.prepare import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves files on 127.0.0.1; a proxy of the machine is not asked."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    yield made
    made.close()
