"""Unpacking archives of others: nothing is written outside the target, no link is made, no bomb goes off.

zip and tar (plain, gz, bz2, xz; told by content, not by name). A member with an absolute path or ``..``, a link that
leaves the folder, a device: the whole archive is refused. A link to a file inside becomes a copy of that file, so the
target never holds a link. Hidden files of macOS (``._*``, ``.DS_Store``, ``__MACOSX``) are left out.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import posixpath
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from tqdm import tqdm

from advpt.errors import DataError

_CHUNK = 1 << 20
_HEADER_LIMIT = 16 << 20
"""A tar header (a long name, say) larger than this is refused rather than read into memory."""
MEMBERS = 3_000_000
"""More members than any data set of the catalogue has."""
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    struct.error,
    ValueError,
    OverflowError,
)


class HostileArchive(DataError):
    """An archive that wants to write where it must not, or more than it may."""


@dataclass
class Budget:
    """What an archive may still write; shared with the archives inside it."""

    size: int
    members: int = MEMBERS
    limit: int = field(init=False)

    def __post_init__(self) -> None:
        self.limit = self.size

    def take(self, size: int, archive: str) -> None:
        self.size -= size
        if self.size < 0:
            raise HostileArchive(
                f"{archive} unpacks to more than {self.limit / 1e9:,.2f} GB, far more than the data set has: it is "
                "another file or an archive bomb. Nothing was kept."
            )

    def member(self, size: int, archive: str) -> None:
        """One more member that says it has this size; refused before a byte is written."""
        self.members -= 1
        if self.members < 0:
            raise HostileArchive(f"{archive} has more than {MEMBERS:,} members: an archive bomb. Nothing was kept.")
        if size > self.size:
            self.take(size, archive)


def relative(name: str, archive: str) -> tuple[str, ...]:
    """The parts of a member's name; () for the archive's root.

    Raises:
        HostileArchive: for an absolute path, a drive letter, ``..``, a backslash or a control character.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if (
        name.startswith("/")
        or ".." in parts
        or "\\" in name
        or re.match(r"[A-Za-z]:", name)
        or any(ord(letter) < 32 or letter == "\x7f" for letter in name)
    ):
        raise HostileArchive(
            f"{archive} holds a member named {name[:200]!r}, which would be written outside its folder or under "
            "another name. The archive is refused; get it from its official address. Nothing was kept."
        )
    return parts


def is_litter(parts: tuple[str, ...]) -> bool:
    """Whether a member is what macOS leaves in archives."""
    return any(part == "__MACOSX" or part == ".DS_Store" or part.startswith("._") for part in parts)


def extract(archive: Path, target: Path, budget: Budget) -> None:
    """Unpack ``archive`` into the new or existing folder ``target``.

    Raises:
        HostileArchive: see above; what was written so far is for the caller to remove.
        DataError: if the archive is empty, cut short, damaged or of no known kind.
    """
    with opened(archive) as (kind, stream, progress):
        if kind == "zip":
            extract_zip(stream, archive.name, target, budget)
        else:
            extract_tar(stream, archive.name, target, budget)
        progress()


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[tuple[str, IO[bytes], Any]]:
    """``("zip" or "tar", the stream of its bytes or of the tar in it, a call that reads it to the end)``.

    Turns what the standard library raises for damaged archives into DataError.
    """
    if not archive.is_file():
        raise DataError(f"{archive} does not exist; give the path of a downloaded archive.")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(archive.open("rb"))
        kind = kind_of(file, archive)
        bar = stack.enter_context(
            tqdm(total=archive.stat().st_size, unit="B", unit_scale=True, desc=f"unpack {archive.name}", disable=None)
        )
        packed = cast("IO[bytes]", _Counted(file, bar))
        stream: Any = packed
        if kind in _DECOMPRESSORS:
            stream = stack.enter_context(_DECOMPRESSORS[kind](packed))
        try:
            yield ("zip" if kind == "zip" else "tar"), stream, lambda: _to_the_end(stream, kind)
        except _DAMAGED as error:
            raise damaged(archive, error) from error
        except OSError as error:
            if error.errno is None:  # bz2 says so of bad data; a full disk has a number
                raise damaged(archive, error) from error
            if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
                raise DataError(f"{archive} holds a name that this disk cannot have ({error.strerror}).") from error
            raise
        except (NotImplementedError, RuntimeError) as error:  # zipfile: a method it does not know, a password
            raise DataError(f"{archive} cannot be unpacked ({error}).") from error


def damaged(archive: Path, error: Exception) -> DataError:
    return DataError(
        f"{archive} is cut short or damaged ({error or type(error).__name__}; {archive.stat().st_size:,} bytes). "
        "Delete it and fetch it again."
    )


_DECOMPRESSORS: dict[str, Any] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}


def kind_of(file: IO[bytes], archive: Path) -> str:
    """ "zip", "gz", "bz2", "xz" or "tar", by content.

    Raises:
        DataError: if the file is empty, a web page, or none of these.
    """
    head = file.read(512)
    file.seek(0)
    if not head:
        raise DataError(f"{archive} is empty (0 bytes): nothing was downloaded. Delete it and fetch it again.")
    for kind, magic in (("zip", b"PK"), ("gz", b"\x1f\x8b"), ("bz2", b"BZh"), ("xz", b"\xfd7zXZ\x00")):
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar" or tarfile.is_tarfile(archive):
        return "tar"
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(
            f"{archive} is a web page, not an archive: most likely Google Drive's 'quota exceeded' page or a sign-in "
            "page, saved under this name. Delete it and fetch the file again in a browser that is signed in."
        )
    raise DataError(f"{archive} is no zip or tar archive (it begins with {head[:8]!r}).")


class _Counted(io.RawIOBase):
    """A file whose reading moves a progress bar."""

    def __init__(self, file: IO[bytes], bar: Any) -> None:
        self._file, self._bar = file, bar

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._bar.update(len(data))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def _to_the_end(stream: IO[bytes], kind: str) -> None:
    """Read the rest of a compressed stream, so that its checksum is compared; padding only, so little is allowed."""
    if kind not in _DECOMPRESSORS:
        return
    rest = 0
    while chunk := stream.read(_CHUNK):
        rest += len(chunk)
        if rest > 1 << 30:
            raise HostileArchive("the archive goes on for more than 1 GB behind its end: an archive bomb.")


class _Forward:
    """What tarfile reads from: forward only, never more than a header's limit at once."""

    def __init__(self, stream: IO[bytes], archive: str) -> None:
        self._stream, self._archive, self._at = stream, archive, 0

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _HEADER_LIMIT:
            raise HostileArchive(f"{self._archive} has a header of {size:,} bytes: it is damaged or an archive bomb.")
        data = self._stream.read(size)
        self._at += len(data)
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        if position < self._at:
            raise tarfile.ReadError("a header points backwards")
        while self._at < position:
            if not self.read(min(_CHUNK, position - self._at)):
                break
        return self._at


def open_tar(stream: IO[bytes], archive: str) -> tarfile.TarFile:
    """A tar for one pass from front to back."""
    return tarfile.open(fileobj=cast("IO[bytes]", _Forward(stream, archive)), mode="r:")


def forget(tar: tarfile.TarFile) -> None:
    """Drop the members read so far: a million of them would stay in memory."""
    tar.members = []  # type: ignore[attr-defined]


def extract_tar(stream: IO[bytes], archive: str, target: Path, budget: Budget) -> None:
    """As :func:`extract`, from a stream; ``archive`` is named in errors."""
    links: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    with open_tar(stream, archive) as tar:
        for member in tar:
            parts = relative(member.name, archive)
            budget.member(member.size, archive)
            if is_litter(parts) or not parts:
                continue
            if member.isdir():
                make_folder(target, parts, archive)
            elif member.isreg():
                source = tar.extractfile(member)
                if source is None:
                    raise DataError(f"{archive}: {member.name!r} cannot be read.")
                write(source, target, parts, archive, budget, member.size)
            elif member.issym():
                links.append((parts, link_target(parts[:-1], member.linkname, archive)))
            elif member.islnk():
                links.append((parts, link_target((), member.linkname, archive)))
            else:
                raise HostileArchive(
                    f"{archive} holds {member.name!r}, a device or pipe (type {member.type!r}). The archive is "
                    "refused. Nothing was kept."
                )
            forget(tar)
    copy_links(links, target, archive, budget)


def extract_zip(stream: IO[bytes], archive: str, target: Path, budget: Budget) -> None:
    """As :func:`extract_tar`, for a zip."""
    links: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    with zipfile.ZipFile(stream) as packed:
        declared = packed.infolist()
        if sum(member.file_size for member in declared) > budget.size:
            budget.take(sum(member.file_size for member in declared), archive)
        for member in declared:
            relative(member.orig_filename, archive)
            parts = relative(member.filename, archive)
            budget.member(member.file_size, archive)
            mode = member.external_attr >> 16
            if is_litter(parts) or not parts:
                continue
            if member.is_dir():
                make_folder(target, parts, archive)
                continue
            with packed.open(member) as source:
                if stat.S_ISLNK(mode):
                    where = source.read(4096).decode("utf-8", "replace")
                    links.append((parts, link_target(parts[:-1], where, archive)))
                elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                    write(source, target, parts, archive, budget, member.file_size)
                else:
                    raise HostileArchive(f"{archive} holds {member.filename!r}, a device or pipe. It is refused.")
    copy_links(links, target, archive, budget)


def make_folder(target: Path, parts: tuple[str, ...], archive: str) -> Path:
    """Make ``target/parts``; a file in its way is an error."""
    path = target.joinpath(*parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise HostileArchive(
            f"{archive} uses {'/'.join(parts)!r} both as a file and as a folder. It is refused."
        ) from None
    return path


def write(source: IO[bytes], target: Path, parts: tuple[str, ...], archive: str, budget: Budget, size: int) -> None:
    """Write one member, counting what is really written.

    Raises:
        HostileArchive: if there is a folder of that name, or the budget is spent.
        EOFError: if it ends before its ``size``.
        OSError: if it cannot be written.
    """
    make_folder(target, parts[:-1], archive)
    path = target.joinpath(*parts)
    if path.is_dir():
        raise HostileArchive(f"{archive} uses {'/'.join(parts)!r} both as a file and as a folder. It is refused.")
    written = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with open(handle, "wb") as file:  # noqa: PTH123 - a handle, opened without following links
        while chunk := source.read(_CHUNK):
            budget.take(len(chunk), archive)
            file.write(chunk)
            written += len(chunk)
    if written != size:
        raise EOFError(f"{'/'.join(parts)} ends after {written:,} of {size:,} bytes")


def link_target(folder: tuple[str, ...], where: str, archive: str) -> tuple[str, ...]:
    """Where in the archive a link points.

    Raises:
        HostileArchive: if it leaves the archive.
    """
    path = posixpath.normpath(posixpath.join("/".join(folder), where))
    if where.startswith("/") or path == ".." or path.startswith("../"):
        raise HostileArchive(
            f"{archive} holds a link to {where[:200]!r}, outside its folder. The archive is refused. Nothing was kept."
        )
    return relative(path, archive)


def copy_links(
    links: list[tuple[tuple[str, ...], tuple[str, ...]]], target: Path, archive: str, budget: Budget
) -> None:
    """Put a copy of the file in the place of every link; links to folders or to nothing are left out."""
    for parts, where in links:
        original = target.joinpath(*where)
        if where and original.is_file():
            with original.open("rb") as source:
                write(source, target, parts, archive, budget, original.stat().st_size)


def remove(folder: Path) -> None:
    """Remove a working folder if it is there; links in it are removed, not followed."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
