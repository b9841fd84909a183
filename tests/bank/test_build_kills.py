"""A build that is killed at random moments and started again ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from advpt.attacks import parse
from advpt.bank import build as build_module
from advpt.bank.cache import BankCache
from tests.helpers.banks import make_clip, make_images

FKL = parse("pgd3-fkl@8")


def bank_files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.glob("**/*")) if p.is_file()}


def child(work) -> int:
    """Run ``work`` in a forked process (imports are done already)."""
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a fork must not return into pytest
            os._exit(1)
    return pid


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(build_module, "SHARD_ROWS", 4)


def test_ten_kills_change_nothing(tmp_path, small_shards):
    torch.set_num_threads(1)
    pictures, backbone = make_images(tmp_path / "images", 80), make_clip()

    def build(root: Path) -> None:
        BankCache(root, backbone, lambda: backbone, chunk=2).get(pictures, FKL)

    started = time.monotonic()
    pid = child(lambda: build(tmp_path / "whole"))
    assert os.waitpid(pid, 0)[1] == 0
    whole = time.monotonic() - started

    rng, kills, attempts = random.Random(0), 0, 0
    while kills < 10 and attempts < 60:
        attempts += 1
        pid = child(lambda: build(tmp_path / "killed"))
        time.sleep(rng.uniform(0.0, whole / 4))
        os.kill(pid, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        if not (tmp_path / "killed").exists() or not list((tmp_path / "killed").glob("**/manifest.json")):
            continue
        for path in sorted((tmp_path / "killed").glob("**/*"), reverse=True):  # finished early: begin anew, half full
            if path.name == "manifest.json" or path.name.startswith("part-0001"):
                path.unlink()
    assert kills == 10
    assert os.waitpid(child(lambda: build(tmp_path / "killed")), 0)[1] == 0
    assert bank_files(tmp_path / "killed") == bank_files(tmp_path / "whole")


@pytest.mark.parametrize("last", ("remove_torn", "write_manifest"))
def test_a_kill_before_or_after_the_last_steps_leaves_no_lock_files(tmp_path, small_shards, monkeypatch, last):
    images, clip = make_images(tmp_path / "images", 6), make_clip()

    def build(root: Path) -> None:
        BankCache(root, clip, lambda: clip, chunk=2).get(images, FKL)

    def killed_after(*arguments: object) -> None:
        step(*arguments)
        raise KeyboardInterrupt

    build(tmp_path / "whole")
    step = getattr(build_module, last)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_module, last, killed_after)
        build(tmp_path / "killed")
    build(tmp_path / "killed")
    assert bank_files(tmp_path / "killed") == bank_files(tmp_path / "whole")


def test_two_processes_share_the_work(tmp_path, small_shards):
    torch.set_num_threads(1)
    pictures, backbone = make_images(tmp_path / "images", 40), make_clip()
    mine: list[int] = []

    def build(root: Path, note: Path | None = None) -> None:
        if note:
            write = build_module.write_shard

            def noting(folder, index, *rest):
                mine.append(index)
                write(folder, index, *rest)

            build_module.write_shard = noting
        BankCache(root, backbone, lambda: backbone, chunk=2).get(pictures, FKL)
        if note:
            note.write_text(" ".join(map(str, mine)))

    pids = [child(lambda i=i: build(tmp_path / "both", tmp_path / f"note{i}")) for i in range(2)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    done = [set((tmp_path / f"note{i}").read_text().split()) for i in range(2)]
    assert len(done[0] | done[1]) == 10 and not done[0] & done[1], "each shard is made once"
    build(tmp_path / "alone")
    assert bank_files(tmp_path / "both") == bank_files(tmp_path / "alone")
