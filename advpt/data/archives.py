"""Unpacking of downloaded archives, zip and tar (plain, gz, bz2, xz; recognised by content, not by name).

Safety is tarfile's data filter (PEP 706), applied to zip members too: a member or link that leads out of the target, or
a device, refuses the whole archive. A :class:`Budget` limits what is written. Links are left out, so the target never
holds one, and so are the hidden files of macOS (``._*``, ``.DS_Store``, ``__MACOSX``).
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import logging
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from tqdm import tqdm

from advpt.data import verify
from advpt.errors import DataError

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
PADDING_BYTES = 1 << 30  # the most that may follow the end mark of a tar
MAX_MEMBERS = 3_000_000  # more than any data set of the catalogue has
Kind = Literal["zip", "r:gz", "r:bz2", "r:xz", "r:"]  # a zip, or the mode in which tarfile reads it
_MAGIC: dict[bytes, Kind] = {b"PK": "zip", b"\x1f\x8b": "r:gz", b"BZh": "r:bz2", b"\xfd7zXZ\x00": "r:xz"}
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    struct.error,
    ValueError,
    OverflowError,
    MemoryError,  # a header that declares more bytes than there is memory
)
_FILE_AND_FOLDER = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_BAD_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class HostileArchive(DataError):
    """An archive that wants to write outside its target, or more than it may."""


@dataclass
class Budget:
    """Bytes that may be unpacked and members that are left; shared with the archives inside an archive."""

    limit: int
    members: int = MAX_MEMBERS
    spent: int = 0

    def spend(self, size: int, archive: str) -> None:
        """Count one member by its declared size, before a byte of it is written. Neither tarfile nor zipfile writes
        more than that.

        Raises:
            HostileArchive: the budget is used up.
        """
        self.members -= 1
        self.spent += size
        if self.members < 0:
            raise HostileArchive(f"{archive} has too many members: an archive bomb. Nothing was kept")
        if self.spent > self.limit:
            raise HostileArchive(
                f"{archive} unpacks to more than {self.limit / 1e9:,.2f} GB, far more than the data set has: it is "
                "another file or an archive bomb. Nothing was kept"
            )


def extract(archive: Path, target: Path, budget: Budget, skip: Sequence[str] = ()) -> None:
    """Unpack ``archive`` into the new or existing folder ``target``, but for the files and folders ``skip``.

    Raises:
        HostileArchive: as in the module's description; what was written so far is for the caller to remove.
        DataError: the archive is empty, cut short, damaged or of an unknown kind.
    """
    with opened(archive) as members:
        extract_members(members, archive.name, target, budget, skip)


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    """An archive, with a progress bar over its bytes; a tar is read to its end afterwards, so that its checksum is
    compared.

    Raises:
        DataError: for everything that the standard library raises for damaged archives, also inside the block.
    """
    bar = {"total": archive.stat().st_size, "desc": f"unpack {archive.name}", "disable": None}
    with archive.open("rb") as file, _readable_errors(archive):
        kind = _kind(file, archive)
        with tqdm.wrapattr(file, "read", **bar) as stream:
            if kind == "zip":
                with zipfile.ZipFile(stream) as members:
                    yield members
            else:
                with tarfile.open(fileobj=stream, mode=kind) as tar:
                    yield tar
                    _read_padding(tar, archive)


def _kind(file: IO[bytes], archive: Path) -> Kind:
    """The kind of an archive, by its first bytes.

    Raises:
        DataError: the file is empty, a web page, or none of these.
    """
    head = file.read(512)
    file.seek(0)
    if not head:
        raise DataError(f"{archive} is empty (0 bytes): nothing was downloaded. Delete it and fetch it again")
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if tarfile.is_tarfile(archive):
        return "r:"
    if verify.is_page(head):
        raise DataError(
            f"{archive} is a web page, not an archive: most likely Google Drive's 'quota exceeded' page or a sign-in "
            "page, saved under this name. Delete it and fetch the file again in a browser that is signed in"
        )
    raise DataError(f"{archive} is no zip or tar archive (it begins with {head[:8]!r})")


@contextlib.contextmanager
def _readable_errors(archive: Path) -> Iterator[None]:
    """Turns the standard library's errors into one sentence that names the archive."""
    try:
        yield
    except tarfile.FilterError as error:
        raise HostileArchive(
            f"{archive} is refused: {error}. Get it from its official address. Nothing was kept"
        ) from error
    except _DAMAGE as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is None:  # bad data in a bz2 stream; errors of the disk have a number
            raise _damaged(archive, error) from error
        if error.errno in _FILE_AND_FOLDER:
            raise HostileArchive(
                f"{archive} uses {error.filename} both as a file and as a folder. It is refused"
            ) from error
        if error.errno in _BAD_NAME:
            raise DataError(f"{archive} holds a name that this disk cannot have ({error.strerror})") from error
        raise
    except RuntimeError as error:  # zipfile: an unknown method of compression, or a password
        raise DataError(f"{archive} cannot be unpacked ({error})") from error


def _damaged(archive: Path, error: BaseException) -> DataError:
    return DataError(
        f"{archive} is cut short or damaged ({str(error) or type(error).__name__}; {archive.stat().st_size:,} bytes). "
        "Delete it and fetch it again"
    )


def _read_padding(tar: tarfile.TarFile, archive: Path) -> None:
    stream: Any = tar.fileobj
    for _ in range(PADDING_BYTES // CHUNK_BYTES):
        if not stream.read(CHUNK_BYTES):
            return
    raise HostileArchive(f"{archive} goes on for more than 1 GB behind its end: an archive bomb. Nothing was kept")


def extract_members(
    members: zipfile.ZipFile | tarfile.TarFile, archive: str, target: Path, budget: Budget, skip: Sequence[str] = ()
) -> None:
    """As :func:`extract`, from an open archive. ``archive``: its name, for messages."""
    left_packed = [tuple(path.split("/")) for path in skip]

    def checked(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        """A filter as tarfile takes it: None leaves a member out."""
        parts = member_path(member.name, archive)
        skipped = any(parts[: len(path)] == path for path in left_packed)
        budget.spend(0 if skipped else member.size, archive)
        if skipped:
            return None
        safe = tarfile.data_filter(member, path)
        if member.issym() or member.islnk():
            log.info("%s: %s is a link to %s; it is left out", archive, member.name, member.linkname)
            return None
        litter = any(part in ("__MACOSX", ".DS_Store") or part.startswith("._") for part in parts)
        return safe if parts and not litter else None

    target.mkdir(parents=True, exist_ok=True)
    if isinstance(members, tarfile.TarFile):
        for member in members:
            members.extract(member, target, set_attrs=False, filter=checked)
        return
    for packed in members.infolist():
        member_path(packed.orig_filename, archive)
        if checked(_as_tar_member(members, packed), str(target)):
            members.extract(packed, target)


def _as_tar_member(members: zipfile.ZipFile, packed: zipfile.ZipInfo) -> tarfile.TarInfo:
    """The description of a zip's member that tarfile's filters understand."""
    member = tarfile.TarInfo(packed.filename)
    member.size = packed.file_size
    kind = stat.S_IFMT(packed.external_attr >> 16)
    if stat.S_ISLNK(kind):
        member.type = tarfile.SYMTYPE
        with members.open(packed) as link:
            member.linkname = link.read(4096).decode("utf-8", "replace")
    elif packed.is_dir():
        member.type = tarfile.DIRTYPE
    elif kind not in (0, stat.S_IFREG):
        member.type = tarfile.FIFOTYPE
    return member


def member_path(name: str, archive: str) -> tuple[str, ...]:
    """The parts of a member's name; () for the archive's root.

    Raises:
        HostileArchive: an absolute path, a drive letter, ``..``, a backslash or a control character.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    bad_characters = any(ord(letter) < 32 or letter in "\\\x7f" for letter in name)
    if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name) or bad_characters:
        raise HostileArchive(
            f"{archive} holds a member named {name[:200]!r}, which would be written outside its folder or under "
            "another name. The archive is refused; get it from its official address. Nothing was kept"
        )
    return parts


def remove(folder: Path) -> None:
    """Remove a working folder if it is there; links in it are removed, not followed."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
