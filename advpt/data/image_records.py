"""Images and labels in plain binary files, as CIFAR and STL-10 come: checked by length, label and number per class, and
read one record at a time. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advpt import files
from advpt.data import classnames, layout, listing, verify
from advpt.data.facts import BinaryFile, DatasetFacts, Part, RecordFacts, Source
from advpt.errors import ConfigError, DataError

Bytes = NDArray[np.uint8]

BLOCK = 1_000  # records that are read at once for their labels
_PICKLE = b"\x80", b"."  # the first and the last byte of a pickle of protocol 2 and later


def picture(planes: Bytes, side: int, by_column: bool) -> Bytes:
    """Pixels ``[row, column, channel]`` of three planes, ``[3 * side * side]``: red, green, blue, each row by row or
    column by column."""
    cube = planes.reshape(3, side, side)
    return cube.transpose(2, 1, 0) if by_column else cube.transpose(1, 2, 0)


def form_of(facts: DatasetFacts) -> RecordFacts:
    """How the binary files of a data set are read.

    Raises:
        ConfigError: it has none.
    """
    if facts.records is None:
        raise ConfigError(f"{facts.name} has no binary files in the catalogue")
    return facts.records


def record_bytes(facts: DatasetFacts) -> int:
    """The length of a record: labels and the pixels of an image."""
    return form_of(facts).labels + 3 * facts.native**2


def lengths(facts: DatasetFacts) -> dict[str, int]:
    """The bytes of each of the data set's binary files, by name."""
    return {
        file.filename: layout.images_of(facts, part) // len(part.files) * size
        for part in facts.parts
        for group, size in ((part.files, record_bytes(facts)), (part.labels, 1))
        for file in group
    }


class RecordFiles:
    """The binary files of one part of a data set.

    Args:
        facts, part: what they are. folder: where they lie.
        hashes: compare them with the md5 on record too.

    Raises:
        ConfigError: for facts without records.
        DataError: a file is missing or not the one that is expected, by its length, its md5, its names of the classes,
            its labels or their number.
    """

    def __init__(self, facts: DatasetFacts, part: Part, folder: Path, hashes: bool = True) -> None:
        self.facts, self.part, self.folder, self.form = facts, part, folder, form_of(facts)
        self.names = classnames.shipped(facts)
        for file in (*part.files, *part.labels):
            self._check_file(file, hashes)
        self._check_names()
        self.labels = self._labels()
        """Label of every image, from 0; ``[n]``."""
        self._check_numbers()

    def images(self) -> Iterator[Bytes]:
        """The pixels of every image, ``[side, side, 3]``, in the order of the files."""
        size, skip, expected = record_bytes(self.facts), self.form.labels, lengths(self.facts)
        for file in self.part.files:
            with (self.folder / file.filename).open("rb") as stream:
                for _ in range(expected[file.filename] // size):
                    record = np.frombuffer(stream.read(size), np.uint8)
                    if len(record) != size:
                        raise DataError(f"{self.folder / file.filename} became shorter while it was read")
                    yield picture(record[skip:], self.facts.native, self.form.by_column)

    def _check_file(self, file: BinaryFile, hashes: bool) -> None:
        path, expected = self.folder / file.filename, lengths(self.facts)
        md5 = file.md5 if hashes else ""
        try:
            verify.check(path, Source("images", "manual", "", file.filename, size=expected[file.filename], md5=md5))
        except verify.WrongFile as error:
            raise self._wrong(f"{error}{_resemblance(path, expected)}") from None

    def _wrong(self, problem: str) -> DataError:
        archive = next(source.filename for source in self.facts.sources if source.what == "images")
        return DataError(f"{self.facts.name}: {problem}. Needed are the files of {archive}, as it has them")

    def _check_names(self) -> None:
        path, expected = self.folder / self.form.names, list(self.names.values())
        try:
            lines = [line.strip() for line in files.read_text(path, DataError).splitlines() if line.strip()]
        except FileNotFoundError:
            raise self._wrong(f"{path} is missing") from None
        if lines != expected:
            raise self._wrong(
                f"{path} has {len(lines)} names of classes ({listing.some(lines, 3)}), expected {len(expected)} "
                f"({listing.some(expected, 3)})"
            )

    def _labels(self) -> NDArray[np.int64]:
        """The labels from 0, in range."""
        group = self.part.labels or self.part.files
        size, at = (1, 0) if self.part.labels else (record_bytes(self.facts), self.form.label)
        last, labels = self.form.first + self.facts.classes - 1, []
        for file in group:
            path = self.folder / file.filename
            values = _bytes_at(path, size, at)
            odd = np.flatnonzero((values < self.form.first) | (values > last))
            if len(odd):
                sentence = f"{path}: the label of image {odd[0] + 1:,} is {values[odd[0]]}, expected"
                raise self._wrong(f"{sentence} {self.form.first} to {last}")
            labels.append(values)
        return np.concatenate(labels).astype(np.int64) - self.form.first

    def _check_numbers(self) -> None:
        due = layout.images_of(self.facts, self.part) // self.facts.classes
        numbers = np.bincount(self.labels, minlength=self.facts.classes)
        odd = [f"{name} ({count:,})" for name, count in zip(self.names.values(), numbers) if count != due]
        if self.part.even and odd:
            which = " and ".join(file.filename for file in (*self.part.files, *self.part.labels))
            raise self._wrong(
                f"{self.folder}: {which} should have {due:,} images of each class, but {len(odd)} classes have others: "
                f"{listing.some(odd, 3)}; they are damaged, or files are exchanged"
            )


def _bytes_at(path: Path, size: int, at: int) -> Bytes:
    """The byte ``at`` of every record of ``size`` bytes."""
    blocks = []
    with path.open("rb") as stream:
        while block := stream.read(BLOCK * size):
            blocks.append(np.frombuffer(block, np.uint8)[at::size].copy())
    return np.concatenate(blocks)


def _resemblance(path: Path, expected: dict[str, int]) -> str:
    """What a wrong file looks like, as the end of a sentence."""
    if not path.is_file():
        return ""
    size = path.stat().st_size
    alike = [name for name, length in expected.items() if length == size and name != path.name]
    if alike:
        return f"; it is as long as {alike[0]}"
    with path.open("rb") as file:
        first = file.read(1)
        file.seek(max(0, size - 1))
        ends: Any = (first, file.read(1))
    return "; it begins and ends as a Python pickle, which is never opened" if ends == _PICKLE else ""
