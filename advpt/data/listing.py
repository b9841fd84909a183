"""Looking at folders: which files and class folders are there, and which of a list are not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.errors import DataError
from advpt.files import printable

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
# First bytes of images; a TIFF's are left out, as most cameras' raw files begin with them too.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # of Windows; those of other systems are hidden


def folders(path: Path) -> list[str]:
    """Sorted names of the folders in ``path``, hidden ones left out; [] if ``path`` is no folder."""
    return sorted(entry.name for entry in entries_of(path) if entry.is_dir())


def images(path: Path) -> list[str]:
    """Sorted names of the image files in ``path`` itself, hidden ones left out; [] if it is no folder."""
    return sorted(entry.name for entry in entries_of(path) if not entry.is_dir() and is_image(entry))


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file is an image: by its suffix, or by its first bytes where its name has no suffix."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
    return suffix in IMAGE_SUFFIXES or (not suffix and _begins_as_image(entry.path))


def _begins_as_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


@dataclass(frozen=True)
class Scan:
    """The files below a folder, at any depth, hidden ones apart: sorted paths relative to it, with '/'.

    images: what is read. left_out: other files, but for those that Windows writes into every folder.
    """

    images: tuple[str, ...]
    left_out: tuple[str, ...]


def scan(folder: Path) -> Scan:
    """All files below ``folder``; none where it is no folder."""
    paths: dict[bool, list[str]] = {True: [], False: []}
    for path, entry in files(folder):
        if entry.name.lower() not in _SYSTEM_FILES:
            paths[is_image(entry)].append(path)
    return Scan(tuple(sorted(paths[True])), tuple(sorted(paths[False])))


def files(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files below a folder, hidden ones left out, with their paths relative to it after ``prefix``."""
    for entry in entries_of(folder):
        if not entry.is_dir():
            yield prefix + entry.name, entry
        elif not (entry.is_symlink() and folder.resolve().is_relative_to(Path(entry.path).resolve())):  # a circle
            yield from files(Path(entry.path), f"{prefix}{entry.name}/")


def doubts(part: str, scans: Mapping[str, Scan], beside: Sequence[str] = ()) -> list[str]:
    """What a listing of class folders left out, or read from inside folders of a class: sentences for a record.

    Args:
        part: the part of the data set, as its folder is called. scans: by class folder. beside: images that lie
            beside the class folders.
    """
    left_out = [f"{name}/{path}" for name, each in scans.items() for path in each.left_out]
    deeper = [f"{name}/{path}" for name, each in scans.items() for path in each.images if "/" in path]
    prefix, sentences = f"{part}: " if part else "", []
    if left_out:
        sentences.append(
            f"{prefix}{len(left_out):,} files in class folders are left out; they are no images by suffix, nor without "
            f"one by content: {some(left_out, 5)}"
        )
    if beside and scans:
        sentences.append(f"{prefix}{len(beside):,} images beside the class folders are left out: {some(beside, 5)}")
    if deeper:
        sentences.append(
            f"{prefix}{len(deeper):,} images lie in folders inside a class folder and are read as images of that "
            f"class: {some(deeper, 5)}"
        )
    return sentences


def entries_of(path: Path) -> Iterable[os.DirEntry[str]]:
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def missing(folder: Path, paths: Sequence[str]) -> list[str]:
    """Those of ``paths`` (relative, with '/') that are no files under ``folder``.

    Each folder is listed once; only what a listing lacks is asked for singly, so a disk that ignores case
    works.
    """
    listed: dict[str, frozenset[str]] = {}
    absent = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in listed:
            where = folder / parent
            listed[parent] = frozenset(os.listdir(where)) if where.is_dir() else frozenset()  # noqa: PTH208
        if name not in listed[parent] and not (folder / path).is_file():
            absent.append(path)
    return absent


def some(names: Sequence[str], limit: int = 10) -> str:
    """The first names, comma-separated, and the number of the rest."""
    if not names:
        return "none"
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more


def missing_image(path: object) -> str:
    """The sentence for an image that is not there."""
    return f"the image {path} is missing; check the data set with: python -m advpt prepare --check"


def require_unicode(names: Iterable[str], where: str) -> None:
    """Refuse names of files and classes that are not UTF-8: they can be opened, but neither be written into a record
    nor read by CLIP. Python marks their bytes with halves of characters.

    Raises:
        DataError: the first such name, its odd bytes as ``\\xe9``. ``where``: what has it, for the message.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{where}: the name '{printable(name)}' is not UTF-8; rename it, for instance with: convmv -f latin1 "
                "-t utf8 -r --notest DIR"
            ) from None
