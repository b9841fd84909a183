"""The sentences where Ray does not start."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from advpt import cluster
from advpt.errors import ConfigError


def refuses(error: Exception) -> SimpleNamespace:
    """A Ray whose start fails in this way."""

    def init(*args: object, **settings: object) -> None:
        raise error

    return SimpleNamespace(is_initialized=lambda: False, init=init)


def test_a_long_temporary_folder_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    reason = "validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /long/sockets/plasma_store"
    monkeypatch.setattr(cluster, "ray_module", lambda: refuses(OSError(reason)))
    with pytest.raises(
        ConfigError, match=r"temporary folder has too long a path.*/long/sockets.*RAY_TMPDIR=/tmp"
    ) as caught:
        cluster.Cluster(cluster.Engine("ray"))
    assert "version" not in str(caught.value)


def test_other_reasons_ask_for_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://nowhere")
    monkeypatch.setattr(cluster, "ray_module", lambda: refuses(ConnectionError("refused")))
    with pytest.raises(ConfigError, match="RAY_ADDRESS=ray://nowhere cannot be used: refused.*same versions"):
        cluster.Cluster(cluster.Engine("ray"))
