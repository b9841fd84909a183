"""A run's folder belongs to one configuration and one data set, and says when everything in it is done."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from advpt import additions
from advpt.data.catalog import title
from advpt.data.lists import DataLists
from advpt.data.split import PARTS
from advpt.errors import RecordError
from advpt.evaluation import record as records
from advpt.evaluation.protocols import recorded
from advpt.files import open_locked, read_json, read_object, unlock, write_json
from advpt.prompts import exchange
from advpt.schema import Json, JsonObject
from advpt.settings import UNCOMPARED_LEAVES, plain

if TYPE_CHECKING:
    from yacs.config import CfgNode

FILE, DATA, DONE, LOCK = "config.json", "data.json", "done.json", ".lock"
# What a start leaves before anything is done: a run that was refused, or failed in its set-up.
STARTS = (FILE, DATA, "console.txt", "tensorboard")
LOCK_SECONDS = 8.0  # to wait for: the processes that load images outlive a killed run by up to 5
log = logging.getLogger(__name__)
UNCOMPARED_NODES = ("EVAL.", "TEST.")  # what is evaluated may change between two starts of one run


def usual_folder(cfg: CfgNode, config_name: str, top: Path) -> Path:
    """CoOp's folder name of a run below ``top``; ``config_name``: the name of the trainer's yaml file."""
    node = cfg.TRAINER.get(cfg.TRAINER.NAME.upper(), {})
    shots = cfg.DATASET.NUM_SHOTS if cfg.DATASET.NUM_SHOTS > 0 else "all"
    folder: Path = top / title(cfg.DATASET).lower() / cfg.TRAINER.NAME / f"{config_name}_{shots}shots"
    if "CSC" in node:
        folder /= f"nctx{node.N_CTX}_csc{node.CSC}_ctp{node.CLASS_TOKEN_POSITION}"
    return folder / f"seed{cfg.SEED}"


@contextlib.contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Within the block no other process trains in this folder; the lock goes with the process, however it ends.
    RecordError where another process is at work there.
    """
    patience = time.monotonic() + LOCK_SECONDS
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


def check(folder: Path, cfg: CfgNode) -> None:
    """Refuse (RecordError) the folder of a run of another configuration; a start that came to nothing is no run."""
    path = folder / FILE
    if not path.is_file() or _is_untouched(folder):
        return
    theirs, mine = (identity(additions.complete(each)) for each in (read_object(path, RecordError), plain(cfg)))
    names = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
    if names:
        lines = "".join(f"\n  {k}: the folder has {theirs.get(k)!r}, this run {mine.get(k)!r}" for k in names)
        raise RecordError(
            f"{folder} holds a run with another configuration:{lines}\n"
            "Give another --output-dir, or delete the folder if its results are not needed"
        )


def check_data(folder: Path, cfg: CfgNode, data: DataLists, *, evaluating: bool = False) -> None:
    """Refuse (RecordError) a folder that holds a run on other data.

    An evaluation is compared in the classes and the test images, which are all that it reads; so is a run whose few
    shots are drawn anew at every start (SEED -1). A folder without :data:`DATA` is of an earlier version: its data are
    taken to be these, unless its prompt was tuned on other classes.
    """
    if _is_untouched(folder):
        return
    drawn = cfg.SEED < 0 and cfg.DATASET.NUM_SHOTS >= 1
    if (folder / DATA).is_file():
        kept = read_object(folder / DATA, RecordError)
        different = data.difference(kept, ("test",) if evaluating or drawn else PARTS)
    elif evaluating and _is_trained(folder):
        return
    else:
        beside = [exchange.about(path) for path in sorted(folder.glob(f"*/{exchange.ABOUT}"))]
        different = next(filter(None, (exchange.other_classes(about, data.classnames) for about in beside)), "")
        if not different:
            log.warning(
                "%s does not say on which data its run is; they are taken to be those in %s", folder, data.folder
            )
    if different:
        raise RecordError(
            f"{folder} holds a run on other data than those in {data.folder}: {different}. Give another --output-dir; "
            "or name the data that the run is on with --root; or delete the folder if its results are not needed"
        )


def claim(folder: Path, cfg: CfgNode, data: DataLists | None = None, *, evaluating: bool = False) -> None:
    """Write the resolved configuration and the lists of the data into a run's folder, or check that the folder is of
    the same ones.

    Args:
        data: None where the host does not tell.
        evaluating: nothing is trained, so that a run of any configuration will do.

    Raises:
        RecordError: as :func:`check` and :func:`check_data`; nothing is changed.
    """
    if not evaluating:
        check(folder, cfg)
    if data is not None:
        check_data(folder, cfg, data, evaluating=evaluating)
    anew = _is_untouched(folder)
    if anew or not (folder / FILE).is_file():
        write_json(folder / FILE, identity(plain(cfg)))
    on_known_data = (folder / DATA).is_file() or (evaluating and _is_trained(folder))
    if data is not None and (anew or not on_known_data):
        write_json(folder / DATA, data.fields())


def identity(settings: Mapping[str, Json]) -> JsonObject:
    """The settings that must not change between two starts of one run."""
    return {k: v for k, v in settings.items() if k not in UNCOMPARED_LEAVES and not k.startswith(UNCOMPARED_NODES)}


def _is_untouched(folder: Path) -> bool:
    """Whether nothing in a folder was made by a run: at most a start was logged there."""
    return not folder.is_dir() or all(
        path.name in STARTS or path.name.startswith((".", "log.txt", "together.txt")) for path in folder.iterdir()
    )


def _is_trained(folder: Path) -> bool:
    """Whether a folder holds something that was tuned."""
    return any(any(folder.glob(pattern)) for pattern in ("*/model*.pth.tar*", "rolling.pth.tar", "*/*.safetensors"))


def evaluation_settings(cfg: CfgNode) -> JsonObject:
    """The settings that say what is evaluated. Images made elsewhere are known by their content, not by their path."""
    settings = {k: v for k, v in plain(cfg).items() if k.startswith(UNCOMPARED_NODES)}
    return settings | {"EVAL.ATTACKS": [recorded(text) for text in settings["EVAL.ATTACKS"]]}


def mark_done(folder: Path, cfg: CfgNode, model: str = "") -> None:
    """Say that the run is complete: which evaluation it had, and the id of each of its records. ``model``: the folder
    that an evaluation alone took what it evaluated from."""
    ids = {path.name: records.read(path).id for path in sorted((folder / records.FOLDER).glob("*.json"))}
    write_json(folder / DONE, {"evaluation": evaluation_settings(cfg), "records": ids, "model": model})


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
    except RecordError:
        return [f"{folder} is not finished"]
    listed = done.get("records") if isinstance(done, dict) else None
    if not isinstance(listed, dict):
        return [f"{folder / DONE} is not what a finished run leaves; run it again"]
    sentences = [] if listed else [f"{folder} finished without a record"]
    for name, written in listed.items():
        try:
            if records.read(folder / records.FOLDER / Path(name).name).id != written:
                sentences.append(f"{folder / records.FOLDER / name} is another record than the run wrote")
        except RecordError as error:
            sentences.append(str(error))
    return sentences
