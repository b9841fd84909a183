"""Disks that are full or read-only, folders that two processes want, clocks that jump, file systems without locks."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import json
import os
import random
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from advpt import files
from advpt.attacks import parse
from advpt.bank import build as build_module
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet
from advpt.errors import StorageError
from advpt.evaluation import run_folder
from advpt.files import atomic_path, write_text
from advpt.tuning import rolling
from tests.helpers.banks import make_clip, make_images
from tests.helpers.injection import content, forked, outcome, run, times
from tests.helpers.waiting import wait_for
from tests.helpers.workspace import Workspace, learned

FKL = parse("pgd2-fkl@8")
SETTINGS = ("OPTIM.MAX_EPOCH", "2", "EVAL.ATTACKS", "('pgd2-ce@8',)", "EVAL.PROTOCOLS", "('transfer',)")
libc = ctypes.CDLL(None, use_errno=True)


def call(workspace: Workspace, *more: str, **how) -> tuple[int, str]:
    """``train.main`` in this process, which is a fork."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = train.main(workspace.argv(*SETTINGS, *more, **how))
    return status, out.getvalue()


def complaint(status: int, said: str) -> str:
    """What is wrong with how a run ended that could not write; "" where it said so in a sentence."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if status == 2 and errors and "Traceback" not in said:
        return ""
    return f"status {status}: {said[-1500:]}"


@contextlib.contextmanager
def file_size(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond ``limit`` bytes: writes are cut short, then refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def mounted(target: Path, size: str) -> bool:
    """Put a new, small file system there, seen by this process alone."""
    target.mkdir(parents=True, exist_ok=True)
    if libc.unshare(0x00020000) and libc.unshare(0x10020000):  # CLONE_NEWNS, else with CLONE_NEWUSER
        return False
    libc.mount(b"none", b"/", None, 0x44000, None)  # MS_REC | MS_PRIVATE: nobody else sees it
    return libc.mount(b"tmpfs", str(target).encode(), b"tmpfs", 0, f"size={size}".encode()) == 0


def remounted(target: Path, size: str, *, read_only: bool = False) -> bool:
    flags = 0x20 | (0x1 if read_only else 0)  # MS_REMOUNT, MS_RDONLY
    return libc.mount(b"tmpfs", str(target).encode(), b"tmpfs", flags, f"size={size}".encode()) == 0


NO_MOUNTS = 77


def test_files_that_cannot_grow(workspace: Workspace, tally, monkeypatch):
    """Every write beyond a limit fails in the middle, as on a full disk; later the run goes on to the same end."""
    monkeypatch.setattr(rolling, "CHECKPOINT_SECONDS", 0.0)
    workspace.run(*SETTINGS)
    whole, rng, n = learned(workspace.output, 2), random.Random(0), times(30)
    banks = content(workspace.folder / "banks", "**/*.safetensors", "**/manifest.json")
    wrong = []
    for i in range(n):
        top = workspace.folder / f"full{i}"

        def work(top: Path = top, limit: int = rng.choice((100, 1000, 2500, 5000, 9000))) -> int:
            more, out = ("BANK.DIR", str(top / "banks")), top / "run"
            with file_size(limit):
                status, said = call(workspace, *more, output=out)
            if status and (bad := complaint(status, said)):
                print(limit, bad)
                return 3
            status, said = call(workspace, *more, output=out)
            if status or learned(out, 2) != whole:
                print(limit, said)
                return 4
            return 0 if content(top / "banks", "**/*.safetensors", "**/manifest.json") == banks else 5

        if status := run(work, workspace.folder / "log"):
            wrong.append((status, (workspace.folder / "log").read_text()[-2500:]))
    print(*wrong[:2], sep="\n")
    tally("disk full (writes cut short)", n, wrong=len(wrong))


def test_a_small_disk(workspace: Workspace, tally, monkeypatch):
    """A real file system without room, enlarged later."""
    monkeypatch.setattr(rolling, "CHECKPOINT_SECONDS", 0.0)
    workspace.run(*SETTINGS)
    whole, rng, n = learned(workspace.output, 2), random.Random(1), times(20)
    wrong = []
    for i in range(n):
        top = workspace.folder / f"disk{i}"

        def work(top: Path = top, size: int = rng.randrange(4, 160, 4)) -> int:
            if not mounted(top, f"{size}k"):
                return NO_MOUNTS
            more, out = ("BANK.DIR", str(top / "banks")), top / "run"
            status, said = call(workspace, *more, output=out)
            if status and (bad := complaint(status, said)):
                print(size, bad)
                return 3
            remounted(top, "64m")
            status, said = call(workspace, *more, output=out)
            if status or learned(out, 2) != whole:
                print(size, said)
                return 4
            return 0

        status = run(work, workspace.folder / "log")
        if status == NO_MOUNTS:
            pytest.skip("this machine lets nobody mount a file system")
        if status:
            wrong.append((status, (workspace.folder / "log").read_text()[-2500:]))
    print(*wrong[:2], sep="\n")
    tally("disk full (a small file system)", n, wrong=len(wrong))


def test_a_read_only_output_folder(workspace: Workspace, tally):
    """A sentence where something has to be written; banks that are there are read all the same."""
    workspace.run(*SETTINGS)
    top = workspace.folder / "disk"

    def work() -> int:
        if not mounted(top, "64m"):
            return NO_MOUNTS
        banks = ("BANK.DIR", str(top / "banks"))
        if run(lambda: call(workspace, *banks, output=top / "run")[0]):  # its log file is closed when it ends
            return 2
        if not remounted(top, "64m", read_only=True):
            return 5
        for more in ((), ("EVAL.ATTACKS", "('pgd3-ce@8',)")):
            status, said = call(workspace, *banks, *more, output=top / "run")
            if complaint(status, said) or "read-only file system" not in said.lower():
                print(status, said)
                return 3
        status, said = call(workspace, *banks, *SETTINGS, output=workspace.folder / "elsewhere")
        if status or learned(workspace.folder / "elsewhere", 2) != learned(workspace.output, 2):
            print(status, said)
            return 4
        return 0

    status = run(work, workspace.folder / "log")
    if status == NO_MOUNTS:
        pytest.skip("this machine lets nobody mount a file system")
    assert status == 0, (workspace.folder / "log").read_text()
    tally("read-only output folder", 3)


def test_a_folder_without_permission(workspace: Workspace, tally):
    top = Path(tempfile.mkdtemp(dir=workspace.folder))
    (top / "file").write_text("x")
    for out in (top / "file", top / "file" / "below", Path("/proc/nothing/here")):
        status, said = workspace.call(*SETTINGS, output=out)
        assert not complaint(status, said), said
        assert str(out) in said and "could not be written" in said
    tally("output folder that cannot be", 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(workspace: Workspace):
    workspace.output.mkdir()
    workspace.output.chmod(0o555)
    status, said = workspace.call(*SETTINGS)
    assert not complaint(status, said) and "permission denied" in said


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE])
def test_the_systems_reason_is_said_and_the_old_file_stays(tmp_path, monkeypatch, code):
    write_text(tmp_path / "a", "old")

    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(StorageError, match="a could not be written: ") as caught:
        write_text(tmp_path / "a", "new")
    assert os.strerror(code)[1:] in str(caught.value)
    assert (tmp_path / "a").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_error_of_the_writer_itself_is_not_dressed_up(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a") as partial:
        partial.write_text(str(1 / 0))


# --- two processes --------------------------------------------------------------------------------------------------


def test_two_processes_on_one_output_folder(workspace: Workspace, tally, monkeypatch):
    """The second one is told who is at work; the first one's results are its own."""
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.0)
    workspace.run(*SETTINGS)
    whole, n, wrong = learned(workspace.output, 2), times(20), 0
    for i in range(n):
        out = workspace.folder / f"both{i}"
        logs = [workspace.folder / f"log{i}-{k}" for k in (0, 1)]
        pids = [forked(lambda out=out: train.main(workspace.argv(*SETTINGS, output=out)), log) for log in logs]
        ends = [outcome(pid) for pid in pids]
        said = "".join(log.read_text() for log in logs)
        # one after the other where they did not meet
        fine = sorted(ends) == [0, 0] or (sorted(ends) == [0, 2] and "is in use: process " in said)
        wrong += not (fine and learned(out, 2) == whole and "Traceback" not in said)
    tally("two processes on one output folder", n, wrong=wrong)


def test_the_second_is_refused_while_the_first_is_at_work(workspace: Workspace, monkeypatch):
    seen = []
    build = train.build
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.0)

    def twice(args, cfg):
        if not seen:
            seen.append(workspace.call(*SETTINGS))
        return build(args, cfg)

    monkeypatch.setattr(train, "build", twice)
    workspace.run(*SETTINGS)
    status, said = seen[0]
    assert status == 2 and f"is in use: process {os.getpid()} on " in said and "--output-dir" in said
    assert workspace.call(*SETTINGS)[0] == 0, "and free again"


def test_a_lock_is_free_when_it_is_released_whoever_was_forked_meanwhile(tmp_path):
    """Forked processes share the open file: without an explicit release a bank would wait for itself."""
    lock = files.FileLock(tmp_path / "lock")
    assert lock.acquire(wait=False)
    pid = forked(lambda: time.sleep(30))
    lock.release()
    try:
        assert files.FileLock(tmp_path / "lock").acquire(wait=False)
    finally:
        os.kill(pid, signal.SIGKILL)
        outcome(pid)


def test_the_lock_of_a_killed_run_is_waited_for(tmp_path):
    """The processes that load images notice a few seconds later that their parent is gone."""
    noticed = tmp_path / "noticed"

    def killed() -> None:
        handle = files.open_locked(tmp_path / run_folder.LOCK, wait=False)
        if os.fork() == 0:  # the loader's process
            wait_for(noticed.exists)
            os._exit(0 if handle else 1)
        os.kill(os.getpid(), signal.SIGKILL)

    assert run(killed) == -signal.SIGKILL
    began = time.monotonic()
    threading.Timer(0.7, noticed.touch).start()
    with run_folder.lock_run_folder(tmp_path):
        assert noticed.exists() and time.monotonic() - began < run_folder.LOCK_SECONDS


def small_bank(folder: Path) -> tuple[ImageSet, dict[str, bytes]]:
    pictures, backbone = make_images(folder / "images", 24), make_clip()
    BankCache(folder / "whole", backbone, lambda: backbone, chunk=2).get(pictures, FKL)
    return pictures, content(folder / "whole")


@pytest.mark.parametrize("locks", [True, False])
def test_processes_that_want_one_bank(tmp_path, tally, monkeypatch, locks):
    """With locks they share the work; on a file system without them they may do it twice, to the same bytes."""
    monkeypatch.setattr(build_module, "SHARD_ROWS", 4)
    pictures, whole = small_bank(tmp_path)
    backbone, n, wrong = make_clip(), times(15), []
    if not locks:

        def without(handle: int, how: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", without)
    for i in range(n):
        root, log = tmp_path / f"banks{i}", tmp_path / f"log{i}"

        def build(root: Path = root) -> None:
            BankCache(root, backbone, lambda: backbone, chunk=2).get(pictures, FKL)

        ends = [outcome(pid) for pid in [forked(build, log) for _ in range(3)]]
        if ends != [0, 0, 0] or content(root, "**/*.safetensors", "**/*.json") != {
            k: v for k, v in whole.items() if not k.startswith(".")
        }:
            wrong.append((ends, log.read_text()[-1500:]))
    print(*wrong[:2], sep="\n")
    tally("three processes on one bank" + ("" if locks else ", no locks"), n, wrong=len(wrong))


def test_a_whole_run_without_locks(workspace: Workspace, tally, monkeypatch):
    workspace.run(*SETTINGS)

    def without(handle: int, how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", without)
    said = []
    monkeypatch.setattr(files.log, "warning", lambda text, *more: said.append(text % more))
    workspace.run(*SETTINGS, "BANK.DIR", str(workspace.folder / "other"), output=workspace.folder / "again")
    assert said and all("has no locks" in line for line in said)
    tally("file system without locks", 1, wrong=learned(workspace.folder / "again", 2) != learned(workspace.output, 2))


# --- clocks ---------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps(workspace: Workspace, tally, monkeypatch):
    """Years forth and back at every look: results are the same, and nothing waits or ends because of it."""
    workspace.run(*SETTINGS)
    whole, n, wrong, rng = learned(workspace.output, 2), times(20), [], random.Random(0)
    for i in range(n):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: rng.uniform(-(2.0**31), 2.0**33))
            out, more = workspace.folder / f"jump{i}", ("BANK.DIR", str(workspace.folder / f"banks{i}"))
            status, said = workspace.call(*SETTINGS, *more, output=out)
        if status or learned(out, 2) != whole:
            wrong.append(said)
        observed = json.loads(next((out / "records").glob("*.json")).read_text())["observed"]
        assert 0 <= observed["seconds"] < 600, "durations are not of that clock"
    tally("clock that jumps", n, wrong=len(wrong))


NO_ROOM = ("ran out of shared memory", "--shm-size", "DATALOADER.NUM_WORKERS 0")
READERS = {  # who reads images in processes of their own: the bank builder, and the host's loader
    "AdvPT": ("EVAL.ATTACKS", "()"),
    "ZeroshotCLIP": ("EVAL.ATTACKS", "('pgd2-ce@8',)", "EVAL.PROTOCOLS", "('transfer',)"),
    "CoOp": ("EVAL.ATTACKS", "()", "TRAINER.COOP.CLEAN_BANK", "False", "DATALOADER.TRAIN_X.BATCH_SIZE", "5"),
}


def with_shared_memory(workspace: Workspace, size: str, *words: str, **settings) -> int:
    """The end of a run in a process that sees ``/dev/shm`` of this size: 0 it went through, 2 it names what is missing,
    3 such a file system cannot be made here, 4 anything else. A run that waits is ended by a signal."""

    def work() -> int:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(120)
        if size and not mounted(Path("/dev/shm"), size):
            return 3
        status, printed = call(workspace, *words, **settings)
        whole = status == 2 and all(part in printed.partition("error: ")[2] for part in NO_ROOM)
        if status and not whole:
            print(printed)
        return status if status == 0 or whole else 4

    return run(work, workspace.folder / "shm.log")


def test_small_shared_memory(workspace, tally):
    """Docker gives a container 64 MB of it. A run goes through or says so at once; without reading processes it goes
    on, and ends with the numbers of a run that had enough."""
    ends, wrong, n = [], [], times(20)
    for trainer, words in READERS.items():
        if with_shared_memory(workspace, "", *words, trainer=trainer, output=workspace.folder / trainer) != 0:
            wrong.append((workspace.folder / "shm.log").read_text()[-2000:])
    for i in range(n):
        rng = random.Random(i)
        trainer = sorted(READERS)[i % len(READERS)]
        size = rng.choice(("4k", "32k", "64k", "128k", "1m"))
        more = (*READERS[trainer], "BANK.DIR", str(workspace.folder / f"banks{i}"))
        settings = {"trainer": trainer, "output": workspace.folder / f"run{i}"}
        ends.append(
            with_shared_memory(workspace, size, *more, "DATALOADER.NUM_WORKERS", str(rng.randint(1, 3)), **settings)
        )
        if ends[-1] == 3:
            pytest.skip("no file system can be mounted here")
        if ends[-1] == 2:
            ends[-1] = with_shared_memory(workspace, size, *more, **settings)
            records = [content(workspace.folder / name, "records/*.json") for name in (f"run{i}", trainer)]
            same = [{name: json.loads(text)["result"]["clean"] for name, text in each.items()} for each in records]
            if same[0] != same[1]:
                wrong.append(f"{trainer} with {size}: other numbers after it went on")
        if ends[-1] != 0:
            printed = (workspace.folder / "shm.log").read_text()[-1500:]
            wrong.append(f"{trainer} with {size} ended with {ends[-1]}: {printed}")
    print(*wrong[:1])
    tally("small shared memory", n, n - min(n, len(wrong)), wrong=len(wrong))
