"""A run's folder belongs to one configuration."""

from __future__ import annotations

from pathlib import Path

from yacs.config import CfgNode

from advpt.errors import RecordError
from advpt.files import read_json, write_json
from advpt.settings import plain

FILE = "config.json"
# May change between two starts of one run: where things lie, what is printed, and what is evaluated.
FREE = ("OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "DATALOADER.NUM_WORKERS", "TRAIN.PRINT_FREQ", "BANK.VERIFY")
FREE_NODES = ("EVAL.", "TEST.")


def claim(folder: Path, cfg: CfgNode, *, evaluating: bool = False) -> None:
    """Write the resolved configuration into a run's folder, or check that the folder is of the same one.

    Raises:
        RecordError: the folder holds another configuration; each differing setting is shown. Nothing is changed.
    """
    mine = {k: v for k, v in plain(cfg).items() if k not in FREE and not k.startswith(FREE_NODES)}
    path = folder / FILE
    if not path.is_file():
        write_json(path, mine)
        return
    theirs = read_json(path, RecordError)
    names = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
    if names and not evaluating:
        lines = "".join(f"\n  {k}: the folder has {theirs.get(k)!r}, this run {mine.get(k)!r}" for k in names)
        raise RecordError(
            f"{folder} holds a run with another configuration:{lines}\n"
            "Give another --output-dir, or delete the folder if its results are not needed"
        )
