"""Hashes, atomic files and locks: what every stored thing of the project stands on."""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from advpt.errors import AdvPTError, StorageError

log = logging.getLogger(__name__)


def canonical_json(value: Any) -> str:
    """JSON that is equal for equal values: sorted keys, no spaces, tuples as lists, dataclasses as objects.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot say. TypeError: for what it does not know.
    """

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return dataclasses.asdict(item)
        raise TypeError(f"{type(item).__name__} has no canonical form")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=plain)


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over named tensors: names sorted, floating point as float32, row-major bytes.

    The same weights have the same digest whatever file they came from and whether they were stored in half precision.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu()
        value = value.float() if value.is_floating_point() else value
        sha.update(f"{name}:{str(value.dtype)}:{list(value.shape)};".encode())
        sha.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_UMASK = os.umask(0)
os.umask(_UMASK)
# What to do where a file cannot be written, by the system's reason.
_FREE = "free some space (or give another folder) and run the same command again: what was finished is kept"
_ELSEWHERE = "give a folder that can be written; what was there is unharmed"
_ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FREE) | dict.fromkeys(
    (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG), _ELSEWHERE
)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the system, torch and safetensors raise where ``path`` cannot be written into one sentence.

    Raises:
        StorageError: naming the file, the system's reason, and what to do.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(_unwritten(path, error.errno, error.strerror or str(error))) from error
    except Exception as error:
        # in messages of safetensors and of torch
        unwritten = re.search(r"os error (\d+)|PytorchStreamWriter|inline_container|iostream error", str(error))
        if unwritten is None:
            raise
        code = int(unwritten[1]) if unwritten[1] else None
        why = os.strerror(code) if code else "the file system took only a part of it"
        raise StorageError(_unwritten(path, code, why)) from error


def _unwritten(path: Path, code: int | None, why: str) -> str:
    return f"{path} could not be written: {why[:1].lower()}{why[1:]}; {_ADVICE.get(code or errno.ENOSPC, _FREE)}"


_THIS_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_DAY = 86_400  # seconds


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; on success it is flushed to disk and renamed, on failure removed.

    Raises:
        StorageError: it cannot be written; ``path`` is as it was.
    """
    # no other process, on this machine or another that has the folder too, has the same name
    partial = path.with_name(f".{path.name}.{_THIS_MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.partial")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.chmod(0o666 & ~_UMASK)  # some writers make private files; colleagues share banks
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``; on success it gets that name, unless another process was first; on failure it
    is removed.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".partial", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_UMASK)
        try:
            partial.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_torn(folder: Path) -> None:
    """Remove what killed writers left in a folder: temporary files of this machine's processes that are gone, and of
    other machines a day behind the folder's newest file (its file system's clock, not ours)."""
    torn = [path for pattern in (".*.partial", ".tmp*") for path in folder.glob(pattern)]  # the latter: safetensors
    with contextlib.suppress(OSError):  # read-only, or another process was first: nothing depends on it
        for path in torn:
            name = re.fullmatch(rf".*\.{_THIS_MACHINE}-(\d+)-[0-9a-f]+\.partial", path.name)
            newest = max(other.stat().st_mtime for other in folder.iterdir())
            if (name and not _is_alive(int(name[1]))) or path.stat().st_mtime < newest - _DAY:
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # another user's is alive
    return True


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or nothing."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write readable, key-sorted JSON atomically."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n")


def read_text(path: Path, error: type[AdvPTError] = AdvPTError) -> str:
    """The text in ``path``, UTF-8 with or without a byte order mark, line ends as ``\\n``.

    Raises:
        error: it is in another encoding; the message says which, where that shows, and which command converts it.
        OSError: it is missing or cannot be opened.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise error(
            f"{path} is in UTF-16, as some programs on Windows write it; expected UTF-8: save it as UTF-8, or run "
            f"iconv -f UTF-16 -t UTF-8"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        where = f"byte {data[cause.start]:#04x} at position {cause.start}"
        raise error(
            f"{path} is not in UTF-8 ({where}): save it as UTF-8, or run iconv -f LATIN1 -t UTF-8 if it comes from an "
            "older program of Western Europe"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def printable(text: str) -> str:
    """A text that any file and terminal takes: bytes of names that are not UTF-8 as ``\\xe9``."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # halves of characters that stand for no byte
        return text.encode("utf-8", "backslashreplace").decode()


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def read_json(path: Path, error: type[AdvPTError] = AdvPTError) -> Any:
    """The JSON in ``path``.

    Raises:
        error: when the file is missing or is not JSON; the message names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_no_number)
        if r"\ud" in text.lower():  # halves of characters can be escaped in JSON, and written nowhere again
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except FileNotFoundError as cause:
        raise error(f"{path} does not exist") from cause
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror or cause}") from cause
    except (ValueError, RecursionError) as cause:
        raise error(f"{path} is not valid JSON ({cause}); delete it and make it again") from cause


def read_object(path: Path, error: type[AdvPTError] = AdvPTError) -> dict[str, Any]:
    """The JSON object in ``path``. Raises ``error`` as :func:`read_json`, and for JSON of another kind."""
    value = read_json(path, error)
    if not isinstance(value, dict):
        raise error(f"{path} holds {type(value).__name__}, expected an object with names; delete it and make it again")
    return value


@contextlib.contextmanager
def network_timeout(seconds: float = 60.0) -> Iterator[None]:
    """For downloads by packages that set no time limit: a connection that is opened meanwhile ends with
    TimeoutError where nothing arrives for so long."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


ATTEMPTS = 10
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


def open_locked(path: Path, *, wait: bool) -> int | None:
    """An open, locked file, or None where another process has the lock and ``wait`` is False. Closing it frees it.

    On a file system without locks (some network mounts) the file is given out all the same, with a warning: then two
    processes may do the same work twice. Files are whole and have the same content in both.

    Raises:
        StorageError: the file cannot be made.
    """
    with storage_errors(path):
        for attempt in range(ATTEMPTS):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                break
            except FileNotFoundError:  # a process that is done removed the folder in this moment
                if attempt + 1 == ATTEMPTS:
                    raise
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(handle)
            raise StorageError(f"{path} could not be locked: {error.strerror}") from error
        log.warning("the file system of %s has no locks: processes that share it may do the same work twice", path)
    return handle


def unlock(handle: int) -> None:
    """Free a file of :func:`open_locked` at once: processes that were forked meanwhile (those that load
    images) have it open too, and closing it here alone would leave it locked until they end."""
    with contextlib.suppress(OSError):  # no locks here
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


class FileLock:
    """An advisory lock on a file, free again when its holder ends, however it ends. ``with`` waits for it.

    Args:
        path: the file, made if it is missing.
        name: what is locked, for the line that is logged while waiting.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name or str(path)
        self._file: int | None = None

    def __enter__(self) -> FileLock:
        if self._file is None and not self.acquire(wait=False):
            log.info("waiting for another process that works on %s", self.name)
            self.acquire(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, wait: bool) -> bool:
        """Take the lock; with ``wait`` False give up at once when another process has it. See :func:`open_locked`."""
        self._file = open_locked(self.path, wait=wait)
        return self._file is not None

    def release(self) -> None:
        if self._file is not None:
            unlock(self._file)
            self._file = None
