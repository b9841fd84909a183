"""What the user of a command reads where a setting is missing or foreign code fails."""

from __future__ import annotations

import contextlib
import pickle
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from advpt.errors import AdvPTError, ConfigError, out_of_memory, out_of_shared_memory, own_words
from advpt.settings import missing_leaf

if TYPE_CHECKING:
    from yacs.config import CfgNode


def advice_on_nodes(problem: str, cfg: CfgNode, repository: Path) -> str:
    """What to do about nodes of TRAINER that a message names and the configuration lacks; "" where there are none."""
    lacking = dict.fromkeys(node for node in re.findall(r"TRAINER\.(\w+)\.", problem) if node not in cfg.TRAINER)
    return "".join(f"\n{advice_on_setting(f'TRAINER.{node}', repository)}" for node in lacking)


def advice_on_setting(name: str, repository: Path) -> str:
    """What to do about a setting or node that the configuration lacks."""
    return (
        f"{name} is no setting of this project. If it belongs to a trainer or data set from another repository, copy "
        f"the lines about it from the extend_cfg of that repository's train.py into extend_cfg of "
        f"{repository / 'train.py'}"
    )


@contextlib.contextmanager
def naming_missing_settings(repository: Path, *cfgs: CfgNode) -> Iterator[None]:
    """Within the block, the error of code that reads a setting which the configurations lack names setting and line.

    Raises:
        ConfigError: in the place of that error.
    """
    try:
        yield
    except AttributeError as error:
        if not (name := missing_leaf(error, cfgs)):
            raise
        reader = traceback.extract_tb(error.__traceback__)[-2]  # the last frame is yacs'
        raise ConfigError(
            f"{reader.filename}, line {reader.lineno}, reads {name}. {advice_on_setting(name, repository)}"
        ) from error


def explanation(error: Exception) -> tuple[str, int]:
    """The sentence for the user and the exit status; "" for a defect, whose traceback is wanted."""
    if reason := out_of_shared_memory(error):
        return reason, 2
    if isinstance(error, AdvPTError | OSError):  # the system's errors name the file and the reason
        return own_words(error), 2
    if isinstance(error, ImportError) and error.name == "pkg_resources":
        reader = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"{reader.filename}, line {reader.lineno}, imports pkg_resources, which setuptools 81 and later do not "
            "have. In a clip package of another repository, write `import packaging.version` there, or run: "
            "pip install 'setuptools<81'",
            2,
        )
    if isinstance(error, ImportError):
        return f"{error}. Install what is missing with: make setup" if "dassl" in str(error) else "", 2
    if reason := out_of_memory(error):
        return (
            f"out of memory ({reason}). What was finished is kept. Use a smaller DATALOADER.TRAIN_X.BATCH_SIZE or "
            "BANK.CHUNK (it makes other banks), or fewer runs at a time, and run the same command again",
            1,
        )
    raised_in = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    refusals = (ValueError, TypeError, AssertionError, ArithmeticError, pickle.UnpicklingError)  # Dassl's, of settings
    return str(error) if isinstance(error, refusals) and raised_in.split(".")[0] == "dassl" else "", 2
