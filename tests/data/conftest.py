"""The local server of the tests of ``prepare``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from advpt.data.prepare import prepare
from tests.helpers.prepare import Prepared, Server, options, small, user_files


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves files on 127.0.0.1; a proxy of the machine is not asked."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    yield made
    made.close()


@pytest.fixture
def pets(server: Server, tmp_path: Path) -> Prepared:
    made = small("OxfordPets", server)
    prepare(made.facts, tmp_path, options())
    return made.facts, tmp_path / "oxford_pets"


@pytest.fixture
def sketch(tmp_path: Path) -> Prepared:
    made = small("ImageNetSketch")
    prepare(made.facts, tmp_path, options(archives=user_files(made, tmp_path / "mine")))
    return made.facts, tmp_path / "imagenet-sketch"
