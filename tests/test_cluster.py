"""Ray: what a worker may have, and the sentences where it does not start or is not there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from advpt import cluster
from advpt.cli import main
from advpt.cluster import Engine
from advpt.errors import ConfigError
from advpt.jobs.backends import RayBackend


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


ENGINE = Engine("ray", cpus=1)


# --- without a cluster --------------------------------------------------------------------------------------------


def test_without_ray_the_engine_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["sweep", "digits", "--backbones", "democlip", "--seeds", "1", "--output", str(tmp_path / "out")]
    assert main([*words, "--engine", "ray"]) == 2
    assert 'pip install "advpt[ray]"' in capsys.readouterr().err
    with pytest.raises(ConfigError, match="not installed"):
        RayBackend(ENGINE)
    assert main([*words, "--dry-run"]) == 0


@pytest.mark.parametrize(("cpus", "gpus"), [(-1, 0), (0, -1), (1, 1.5)])
def test_a_worker_that_cannot_be(cpus, gpus):
    with pytest.raises(ConfigError, match="a worker is to have"):
        Engine("ray", cpus, gpus)


def test_an_engine_that_nobody_knows():
    with pytest.raises(ConfigError, match="expected one of local, ray"):
        Engine("slurm")
