"""Looking at folders: which files and class folders are there, and which of a list are not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from advpt.errors import DataError
from advpt.files import printable

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))


def folders(path: Path) -> list[str]:
    """Sorted names of the folders in ``path``, hidden ones left out; [] if ``path`` is no folder."""
    return sorted(entry.name for entry in _entries(path) if entry.is_dir())


def images(path: Path) -> list[str]:
    """Sorted names of the image files in ``path``, by suffix, hidden ones left out; [] if it is no folder."""
    return sorted(entry.name for entry in _entries(path) if is_image(entry.name))


def is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def _entries(path: Path) -> Iterable[os.DirEntry[str]]:
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def missing(folder: Path, paths: Sequence[str]) -> list[str]:
    """Those of ``paths`` (relative, with '/') that are no files under ``folder``.

    Each folder is listed once; only what a listing lacks is asked for singly, so a disk that ignores case
    works.
    """
    known: dict[str, frozenset[str]] = {}
    absent = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in known:
            where = folder / parent
            known[parent] = frozenset(os.listdir(where)) if where.is_dir() else frozenset()  # noqa: PTH208
        if name not in known[parent] and not (folder / path).is_file():
            absent.append(path)
    return absent


def some(names: Sequence[str], limit: int = 10) -> str:
    """The first names, comma-separated, and how many more there are."""
    if not names:
        return "none"
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


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
