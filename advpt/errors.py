"""The project's exceptions. Each message is a sentence for the user: value, expectation, place, next command."""

from __future__ import annotations

import difflib
import errno
import re
import shutil
import traceback
from collections.abc import Iterable
from pathlib import Path


class AdvPTError(Exception):
    """Base of every error this project raises for a user's mistake or a broken input."""


class ConfigError(AdvPTError, ValueError):
    """A setting, an attack specification or a command line that cannot be used."""


class DataError(AdvPTError):
    """A data set, split file or image that is missing, damaged or not what it should be."""


class WeightsError(AdvPTError):
    """A weight file that is missing, damaged, untrusted or of another architecture."""


class PromptError(AdvPTError, ValueError):
    """A prompt that does not fit the text encoder or the class list."""


class AttackError(AdvPTError, ValueError):
    """An attack that was given input outside its contract, or that left its budget."""


class DefenseError(AdvPTError, ValueError):
    """A defense that was given input outside its contract."""


class ModelError(AdvPTError, ValueError):
    """A model of the user's own that cannot be had, or that breaks a rule of evaluations."""


class BankError(AdvPTError):
    """A bank that is missing, damaged or incomplete."""


class BankMismatchError(BankError):
    """A bank that was made by something else than what the run asks for."""


class RecordError(AdvPTError):
    """A result record or output folder that belongs to another configuration or schema."""


class StorageError(AdvPTError, OSError):
    """A file that cannot be written: disk full, read-only, no permission. What was there before is unharmed."""


class TrainingError(AdvPTError, ArithmeticError):
    """Tuning that cannot go on: a gradient or a parameter is not finite. No file was written from it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for an unknown name: the nearest match, then all known names."""
    names = sorted(known)
    lower = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}"


def own_words(error: BaseException) -> str:
    """The message of an error, without the traceback that PyTorch's loaders wrap around one of a worker process."""
    text = str(error).strip()
    if text.startswith("Caught ") and "worker process" in text:
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
    return text


def shown(value: object, most: int = 60) -> str:
    """A value for a message, of at most so many characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_words(error: BaseException) -> str:
    """The first line of an error's message, without a terminal's codes; its kind where the message is empty."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def out_of_memory(error: BaseException) -> str:
    """The system's sentence where an error means that memory ran out (of the machine or a device), else ""."""
    line = (str(error).splitlines() or [""])[0]
    by_type = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return (line or "MemoryError") if by_type or "can't allocate memory" in line or "out of memory" in line else ""


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux has it; nothing is written there by name
# Messages of torch and the system when the shared memory is full.
_NO_SHARED_MEMORY = ("file </torch_", "out of shared memory", "Bus error")


def out_of_shared_memory(error: BaseException) -> str:
    """The sentence for the user where an error means that the processes that read images have no shared memory left
    (a container has 64 MB of it by default), else ""."""
    of_torch = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_SHARED_MEMORY)
    if not of_torch and not _semaphore_without_room(error):
        return ""
    size = f" has {shutil.disk_usage(SHARED_MEMORY).total / 2**20:.0f} MiB" if SHARED_MEMORY.is_dir() else ""
    return (
        f"the processes that read images ran out of shared memory: {SHARED_MEMORY}{size}. Give the container more "
        "(docker run --shm-size 8g), or read images without such processes: DATALOADER.NUM_WORKERS 0 (slower). What "
        "was finished is kept, and the same command goes on"
    )


def _semaphore_without_room(error: BaseException) -> bool:
    """Whether there was no room for the semaphores of a new process, which lie in shared memory too."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EFBIG) or error.filename is not None:
        return False
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].startswith("multiprocessing.")
