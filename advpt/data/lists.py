"""The lists of a data set as a run uses them: what a run's folder, its checkpoints and its records know its data by."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advpt.data import listing
from advpt.data.split import PARTS, Row, Split
from advpt.errors import DataError
from advpt.files import digest, file_digest

COMPARED_FILES = 64  # of each list, evenly spread, are compared by their content
MARKED_ROWS = 50_000  # of each list, whose places a run's folder keeps: the first file that differs can be named
_MARK, _CONTENT = 4, 8  # hexadecimal digits of a row's hash, and of a file's


@dataclass(frozen=True)
class DataLists:
    """Which images are in train, val and test, in order, and the names of the classes by label.

    ``split`` has paths relative to ``folder``, the deepest folder that all images share: the same data in another place
    has the same lists.
    """

    classnames: tuple[str, ...]
    split: Split
    folder: Path

    @classmethod
    def of(cls, data: Any) -> DataLists:
        """Those of a Dassl data set: ``train_x``, ``val`` and ``test`` with ``impath``, ``label`` and ``classname``."""
        lists = [list(getattr(data, name, None) or ()) for name in ("train_x", "val", "test")]
        paths = [[_absolute(item.impath) for item in items] for items in lists]
        shared = os.path.commonprefix([path for part in paths for path in part])
        shared = shared[: shared.rfind("/") + 1]
        rows: list[tuple[Row, ...]] = [
            tuple((path.removeprefix(shared), int(item.label), str(item.classname)) for path, item in zip(part, items))
            for part, items in zip(paths, lists)
        ]
        return cls(tuple(map(str, data.classnames)), Split(*rows), Path(shared))

    def of_part(self, part: str) -> list[list[Any]]:
        """``[path, label]`` of each image of a part."""
        return [[path, label] for path, label, _ in self.split.parts()[part]]

    @functools.cached_property
    def tuned_on(self) -> dict[str, Any]:
        """What a checkpoint says of the data that it was tuned on."""
        train = self.of_part("train")
        return {
            "classes": len(self.classnames),
            "images": len(train),
            "digest": digest({"classnames": self.classnames, "train": train}),
        }

    def fields(self) -> dict[str, Any]:
        """What a run's folder keeps, as JSON values.

        Raises:
            DataError: an image is missing.
        """
        fields: dict[str, Any] = {"classnames": list(self.classnames)}
        for part in PARTS:
            rows = self.of_part(part)
            marks = "".join(digest(row)[:_MARK] for row in rows[:MARKED_ROWS])
            fields[part] = {"n": len(rows), "digest": digest(rows), "rows": marks, "contents": self._contents(part)}
        return fields

    def difference(self, kept: Mapping[str, Any], parts: Sequence[str] = PARTS) -> str:
        """What differs from the lists in :meth:`fields` of another run, as half a sentence; "" where nothing does.

        Contents differ where most of the files that are compared do: one that was repaired does not make other data.
        """
        if different := self._other_classes(kept.get("classnames")):
            return different
        for part in parts:
            theirs, rows = kept.get(part), self.of_part(part)
            theirs = theirs if isinstance(theirs, Mapping) else {}
            if theirs.get("digest") != digest(rows):
                return self._other_rows(part, theirs, rows)
        for part in parts:
            theirs = str(kept[part].get("contents", ""))
            mine = self._contents(part)
            pairs = list(zip(_pieces(theirs, _CONTENT), _pieces(mine, _CONTENT), self._compared(part)))
            others = [path for a, b, path in pairs if a != b]
            if 2 * len(others) > len(pairs):
                return f"the images of {part} have the same names and another content, for instance {others[0]}"
        return ""

    def hashes(self, kept: Mapping[str, Any], part: str) -> dict[Path, str]:
        """The beginnings of the hashes of some files of a part, as :meth:`fields` of another run has them; none where
        its list is another."""
        theirs, rows = kept.get(part), self.of_part(part)
        if not isinstance(theirs, Mapping) or theirs.get("digest") != digest(rows):
            return {}
        contents = _pieces(str(theirs.get("contents", "")), _CONTENT)
        return {self.folder / path: each for path, each in zip(self._compared(part), contents)}

    def _other_classes(self, theirs: Any) -> str:
        names = [str(name) for name in theirs] if isinstance(theirs, list) else []
        if names == list(self.classnames):
            return ""
        if len(names) != len(self.classnames):
            return (
                f"it has {len(names)} classes ({listing.some(names, 3)}), this run {len(self.classnames)} "
                f"({listing.some(self.classnames, 3)})"
            )
        label = next(i for i, (a, b) in enumerate(zip(names, self.classnames)) if a != b)
        return f"its class {label} is {names[label]!r}, that of this run {self.classnames[label]!r}"

    def _other_rows(self, part: str, theirs: Mapping[str, Any], rows: list[list[Any]]) -> str:
        text = f"its {part} list has {theirs.get('n')} images, that of this run {len(rows)}"
        marks = _pieces(str(theirs.get("rows", "")), _MARK)
        pairs = enumerate(itertools.zip_longest(marks, rows[:MARKED_ROWS]))
        first = next((i for i, (mark, row) in pairs if row is not None and mark != digest(row)[:_MARK]), None)
        return text if first is None else f"{text}; the first that differs is here {rows[first][0]} (image {first + 1})"

    def _compared(self, part: str) -> list[str]:
        paths = [path for path, _, _ in self.split.parts()[part]]
        return paths[:: max(1, -(-len(paths) // COMPARED_FILES))]

    def _contents(self, part: str) -> str:
        try:
            return "".join(file_digest(self.folder / path)[:_CONTENT] for path in self._compared(part))
        except FileNotFoundError as error:
            raise DataError(listing.missing_image(error.filename)) from None


def _absolute(path: str) -> str:
    return path if path.startswith("/") else str(Path(path).absolute())


def _pieces(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]
