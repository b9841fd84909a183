"""Comparison of files with the catalogue: size, SHA-256, md5 and git blob id, computed in one pass."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tqdm import tqdm

from advpt.data.facts import Checksums, Source
from advpt.errors import DataError

CHUNK_BYTES = 1 << 20
PROGRESS_BYTES = 256 << 20  # smaller files are hashed without a progress bar


class WrongFile(DataError):
    """A file that is not the one the catalogue describes."""


def checksums(path: Path) -> Checksums:
    """All checksums of a file.

    Raises:
        OSError: if it cannot be read.
    """
    size = path.stat().st_size
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    quiet = None if size >= PROGRESS_BYTES else True
    with path.open("rb") as file, tqdm(total=size, unit="B", unit_scale=True, desc="hash", disable=quiet) as bar:
        while chunk := file.read(CHUNK_BYTES):
            for hasher in (sha256, md5, blob):
                hasher.update(chunk)
            bar.update(len(chunk))
    return Checksums(size=size, sha256=sha256.hexdigest(), md5=md5.hexdigest(), git_blob=blob.hexdigest())


def check(path: Path, source: Source) -> tuple[Checksums, tuple[str, ...]]:
    """Compare a file with a source; returns its checksums and the names of those that are on record and agree.

    Raises:
        WrongFile: if it is missing, empty, a web page, or differs in a checksum that is on record.
    """
    if not path.is_file():
        raise WrongFile(f"{path} is missing; expected the file {source.filename}")
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise WrongFile(f"{path} is empty (0 bytes): nothing was downloaded. Delete it and fetch it again")
    if is_page(head):
        raise WrongFile(page_message(str(path), head, source))
    actual = checksums(path)
    agree = []
    for name in ("size", "sha256", "md5", "git_blob"):
        expected, value = getattr(source, name), getattr(actual, name)
        if isinstance(expected, str):
            value = value[: len(expected)]
        if expected and value != expected:
            raise WrongFile(_difference(path, source, name, expected, value, actual.size))
        if expected:
            agree.append(name)
    return actual, tuple(agree)


def _difference(path: Path, source: Source, name: str, expected: object, value: object, size: int) -> str:
    if name == "size":
        state = "cut short" if size < source.size else "another file"
        return f"{path} has {size:,} bytes, expected {source.size:,}: it is {state}"
    label = {"sha256": "SHA-256", "md5": "md5", "git_blob": "git blob id"}[name]
    return f"{path} has {label} {value}, expected {expected} ({size:,} bytes): it is damaged or another file"


def is_page(head: bytes) -> bool:
    """Whether these first bytes begin a web page."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html"))


def page_message(what: str, head: bytes, source: Source) -> str:
    """The sentence for a web page in the place of data; Google Drive's quota page gets another."""
    quota = b"quota" in head.lower() or source.where == "drive"
    if quota:
        return (
            f"{what} is a web page instead of {source.filename}: Google Drive says that its download quota is exceeded "
            "or asks for a sign-in. Try again in a day, or open the link in a browser that is signed in, save the file "
            f"and pass it with --archive {source.filename}"
        )
    return f"{what} is a web page instead of {source.filename}: the address has moved or asks for a sign-in"
