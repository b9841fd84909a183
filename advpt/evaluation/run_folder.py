"""A run's folder belongs to one configuration, and says when everything in it is done."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from advpt import additions
from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.files import open_locked, read_json, read_object, unlock, write_json
from advpt.settings import plain

FILE = "config.json"
DONE = "done.json"
LOCK = ".lock"
PATIENCE = 8.0  # seconds: the processes that load images outlive a killed run by up to 5
# May change between two starts of one run: where things lie, what is printed, and what is evaluated.
FREE = (
    "OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "DATALOADER.NUM_WORKERS", "TRAIN.PRINT_FREQ", "BANK.VERIFY",
    "BANK.DIR", "BANK.ENGINE", "BANK.CPUS_PER_WORKER", "BANK.GPUS_PER_WORKER", "DATASET.ROOT",
)  # fmt: skip
FREE_NODES = ("EVAL.", "TEST.")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within the block no other process trains in this folder; the lock goes with the process, however it ends.

    Raises:
        RecordError: another process is at work there. StorageError: the folder cannot be written.
    """
    patience = time.monotonic() + PATIENCE
    while (handle := open_locked(folder / LOCK, wait=False)) is None and time.monotonic() < patience:
        time.sleep(0.2)
    if handle is None:
        who = (folder / LOCK).read_text(encoding="utf-8", errors="replace").strip()[:200] or "another process"
        raise RecordError(
            f"{folder} is in use: {who} trains in it. Wait for its end (this command then continues or finds it done), "
            "or give another --output-dir"
        )
    try:
        with contextlib.suppress(OSError):  # for people; the lock is what counts
            os.truncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        for torn in folder.glob("**/.*partial*"):  # what killed runs left
            if torn.parent.name != records.FOLDER:  # where an evaluation may be writing
                torn.unlink(missing_ok=True)
        yield
    finally:
        unlock(handle)


def claim(folder: Path, cfg: CfgNode, *, evaluating: bool = False) -> None:
    """Write the resolved configuration into a run's folder, or check that the folder is of the same one.

    Raises:
        RecordError: the folder holds another configuration; each differing setting is shown. Nothing is changed.
    """
    mine = _identity(plain(cfg))
    path = folder / FILE
    if not path.is_file():
        write_json(path, mine)
        return
    theirs, mine = (_identity(additions.complete(each)) for each in (read_object(path, RecordError), mine))
    names = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
    if names and not evaluating:
        lines = "".join(f"\n  {k}: the folder has {theirs.get(k)!r}, this run {mine.get(k)!r}" for k in names)
        raise RecordError(
            f"{folder} holds a run with another configuration:{lines}\n"
            "Give another --output-dir, or delete the folder if its results are not needed"
        )


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must not change between two starts of one run."""
    return {k: v for k, v in settings.items() if k not in FREE and not k.startswith(FREE_NODES)}


def evaluation_settings(cfg: CfgNode) -> dict[str, object]:
    """The settings that say what is evaluated."""
    return {k: v for k, v in plain(cfg).items() if k.startswith(FREE_NODES)}


def mark_done(folder: Path, cfg: CfgNode, model: str = "") -> None:
    """Say that the run is complete: which evaluation it had, and the id of each of its records. ``model``: the folder
    that an evaluation alone took what it evaluated from."""
    found = {path.name: records.read(path).id for path in sorted((folder / records.FOLDER).glob("*.json"))}
    write_json(folder / DONE, {"evaluation": evaluation_settings(cfg), "records": found, "model": model})


def is_done(folder: Path, cfg: CfgNode, model: str = "") -> bool:
    """Whether this configuration was trained and evaluated here, and all its records are still there and sound."""
    if problems(folder):
        return False
    done = read_json(folder / DONE, RecordError)
    then, now = done.get("evaluation"), evaluation_settings(cfg)
    same = isinstance(then, dict) and additions.complete(then) == additions.complete(now)
    return same and bool(done.get("model", "") == model)


def problems(folder: Path) -> list[str]:
    """Why a run is not complete: one sentence for each thing that is missing or unsound; empty for a complete run."""
    try:
        done = read_json(folder / DONE, RecordError)
        listed = dict(done["records"])
    except RecordError:
        return [f"{folder} is not finished"]
    except (KeyError, TypeError, ValueError):
        return [f"{folder / DONE} is not what a finished run leaves; run it again"]
    found = [] if listed else [f"{folder} finished without a record"]
    for name, known in listed.items():
        try:
            if records.read(folder / records.FOLDER / Path(name).name).id != known:
                found.append(f"{folder / records.FOLDER / name} is another record than the run wrote")
        except RecordError as error:
            found.append(str(error))
    return found
