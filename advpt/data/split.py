"""Split files in CoOp's format: which image is in train, val and test, with its label and class name.

The JSON object has the keys ``train``, ``val`` and ``test``; each is a list of
``[relative image path, label, class name]``. Their order matters: few-shot sampling follows it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from advpt import files
from advpt.data import listing, verify
from advpt.data.facts import DatasetFacts
from advpt.errors import DataError

Row = tuple[str, int, str]
"""Relative path of the image, label from 0, class name."""

PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """Which image is in which part. ``val`` may be empty."""

    train: tuple[Row, ...]
    val: tuple[Row, ...]
    test: tuple[Row, ...]

    def parts(self) -> dict[str, tuple[Row, ...]]:
        return {"train": self.train, "val": self.val, "test": self.test}

    def counts(self) -> tuple[int, int, int]:
        return len(self.train), len(self.val), len(self.test)

    def digest(self) -> str:
        """SHA-256 of the content in canonical form: the same for any white space or key order of the file."""
        return files.digest(self.parts())

    def as_text(self) -> str:
        """The text CoOp writes for this content (indent 4); the official files are exactly this."""
        return json.dumps(self.parts(), indent=4, separators=(",", ": "))


def git_blob(data: bytes) -> str:
    """The object id git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def read(path: Path) -> tuple[Split, bytes]:
    """Read and check a split file; also returns its bytes.

    Raises:
        DataError: if the file is missing, is no JSON (a saved web page is recognised), or does not have
            CoOp's form: three lists of rows, one name per label, labels 0..n-1, relative paths,
            no path twice.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path.name} is missing: expected at {path}") from None
    if verify.is_page(data[:64]):
        raise DataError(
            f"{path} is a web page, not a split file: most likely Google Drive's 'quota exceeded' page, "
            "saved under this name. Delete it and fetch the file from its other source"
        )
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid JSON ({error}; {len(data)} bytes): damaged or cut short. Delete it and fetch it again"
        ) from None
    return parse(content, str(path)), data


def read_lists(folder: Path) -> Split:
    """The split of a data set that comes with lists instead of a split file, as FGVC Aircraft: labels are line numbers
    of ``variants.txt``, parts are ``images_variant_{train,val,test}.txt`` with an image and a variant on each line.

    Raises:
        DataError: a list is missing, names another variant or gives no sound split.
    """
    labels = {name: label for label, name in enumerate(_lines(folder / "variants.txt"))}
    parts = []
    for part in PARTS:
        path, rows = folder / f"images_variant_{part}.txt", []
        for number, line in enumerate(_lines(path), 1):
            image, _, variant = line.partition(" ")
            if variant not in labels:
                raise DataError(
                    f"{path}, line {number} is {line!r}; expected an image number and a name of variants.txt"
                )
            rows.append((f"{image}.jpg", labels[variant], variant))
        parts.append(tuple(rows))
    split = Split(*parts)
    check(split, f"{folder}/images_variant_*.txt")
    return split


def _lines(path: Path) -> list[str]:
    try:
        lines = files.read_text(path, DataError).splitlines()
    except FileNotFoundError:
        raise DataError(f"{path.name} is missing: expected at {path}") from None
    return [line.strip() for line in lines if line.strip()]


def parse(content: Any, origin: str) -> Split:
    """Check parsed JSON and give it types; ``origin`` is named in errors.

    Raises:
        DataError: as :func:`read`.
    """
    if not isinstance(content, Mapping) or any(part not in content for part in PARTS):
        names = ", ".join(map(repr, content)) if isinstance(content, Mapping) else type(content).__name__
        raise DataError(f"{origin}: expected an object with 'train', 'val' and 'test', found {names or 'none'}")
    train, val, test = (_rows(content[part], part, origin) for part in PARTS)
    split = Split(train, val, test)
    check(split, origin)
    return split


def _rows(rows: Any, part: str, origin: str) -> tuple[Row, ...]:
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise DataError(f"{origin}: {part!r} is not a list")
    for number, row in enumerate(rows):
        match row:
            case [str(), int() as label, str()] if not isinstance(label, bool):
                continue
        raise DataError(f"{origin}: entry {number} of {part!r} is {row!r}; expected [relative path, label, class name]")
    return tuple((path, label, name) for path, label, name in rows)


def check(split: Split, origin: str) -> None:
    if not split.train or not split.test:
        empty = "train" if not split.train else "test"
        raise DataError(f"{origin}: the list {empty!r} is empty")
    where: dict[str, str] = {}
    names: dict[int, str] = {}
    listing.require_unicode(
        (text for rows in split.parts().values() for path, _, name in rows for text in (path, name)), origin
    )
    for part, rows in split.parts().items():
        for path, label, name in rows:
            pure = PurePosixPath(path)
            drive = pure.parts and ":" in pure.parts[0]
            if not pure.parts or drive or pure.is_absolute() or ".." in pure.parts or "\\" in path:
                raise DataError(
                    f"{origin}: {path!r} in {part!r} is not a plain relative path with '/' between its parts"
                )
            if path in where:
                raise DataError(f"{origin}: {path!r} is listed twice, in {where[path]!r} and {part!r}")
            where[path] = part
            if names.setdefault(label, name) != name:
                raise DataError(f"{origin}: label {label} has two names, {names[label]!r} and {name!r}")
    labels = sorted(names)
    if labels != list(range(len(labels))):
        gap = next(i for i, label in enumerate(labels) if i != label)
        raise DataError(
            f"{origin}: {len(labels)} labels must be 0 to {len(labels) - 1} without gaps; "
            f"found {labels[gap]} where {gap} is due"
        )


def unofficial_warning(facts: DatasetFacts, split: Split, data: bytes, path: Path) -> str:
    """The sentence to warn with where a split file is not the official one, else ""; equal content in another layout
    counts as equal."""
    marks = facts.split
    if marks is None:
        return ""
    if marks.git_blob:
        kind, official = "git blob id", marks.git_blob
        actual = [git_blob(data), git_blob(split.as_text().encode())]
    elif marks.content:
        kind, official, actual = "content SHA-256", marks.content, [split.digest()]
    else:
        return (
            f"{path} cannot be checked: no hash of the official {marks.filename} is on record. "
            "Results are marked as not comparable"
        )
    if official in actual:
        return ""
    numbers = ""
    if split.counts() != facts.counts:
        numbers = (
            f" It has {triple(split.counts())} images in train / val / test, "
            f"the official one has {triple(facts.counts)}."
        )
    return (
        f"{path} is not the official split of {facts.name}: its {kind} is {actual[0]}, the official one is "
        f"{official}.{numbers} Results are marked as not comparable with published ones"
    )


def triple(counts: tuple[int, int, int]) -> str:
    return " / ".join(f"{n:,}" for n in counts)
