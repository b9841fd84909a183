"""Oxford-IIIT Pet: 37 breeds of cats and dogs."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum

from advpt import files
from advpt.data import catalog
from advpt.data.split import Row, Split, read
from advpt.errors import DataError

from .split_file import SplitDataset, datums, notice, subsample_classes


@DATASET_REGISTRY.register()
class OxfordPets(SplitDataset):
    """The official test; the official trainval cut 80/20 per class.

    CoOp's other data set files call four helpers of this class, so they are here under the same names.
    """

    info = catalog.get("OxfordPets")

    subsample_classes = staticmethod(subsample_classes)

    @staticmethod
    def read_split(filepath: str, path_prefix: str) -> tuple[list[Datum], list[Datum], list[Datum]]:
        """Train, val and test of a split file whose paths are relative to ``path_prefix``."""
        split, _ = read(Path(filepath))
        train, val, test = (datums(rows, path_prefix) for rows in split.parts().values())
        return train, val, test

    @staticmethod
    def save_split(
        train: Sequence[Datum], val: Sequence[Datum], test: Sequence[Datum], filepath: str, path_prefix: str
    ) -> None:
        """Write a split file, and warn that it is not an official one.

        Args:
            train, val, test: the images of the three parts.
            filepath: the JSON file, made anew.
            path_prefix: the folder that paths in the file are relative to.

        Raises:
            DataError: an image lies elsewhere.
        """

        def row(item: Datum) -> Row:
            try:
                path = Path(item.impath).relative_to(path_prefix).as_posix()
            except ValueError:
                raise DataError(
                    f"{item.impath} is not below {path_prefix}, so a split file cannot list it; give save_split the "
                    "folder that all images are in"
                ) from None
            return path, item.label, item.classname

        parts = (tuple(map(row, items)) for items in (train, val, test))
        files.write_text(Path(filepath), Split(*parts).as_text())
        notice(f"Saved split to {filepath}")
        warnings.warn(
            f"{filepath} was made here and is not the official split: results on it compare with nothing published",
            stacklevel=2,
        )

    @staticmethod
    def split_trainval(trainval: Sequence[Datum], p_val: float = 0.2) -> tuple[list[Datum], list[Datum]]:
        """Cut a list per class into train and val, drawn by Python's global generator, which the run seeds.

        Args:
            trainval: the images of both.
            p_val: the part of each class that goes to val, between 0 and 1.

        Raises:
            DataError: a class is too small to give val an image.
        """
        notice(f"Splitting trainval into {1 - p_val:.0%} train and {p_val:.0%} val")
        by_label: dict[int, list[Datum]] = {}
        for item in trainval:
            by_label.setdefault(item.label, []).append(item)
        train: list[Datum] = []
        val: list[Datum] = []
        for label, items in by_label.items():
            number = round(len(items) * p_val)
            if not 0 < number < len(items):
                raise DataError(
                    f"class {label} ({items[0].classname}) has {len(items)} images, too few to put {p_val:.0%} of them "
                    "into val and to keep some in train"
                )
            random.shuffle(items)
            val += items[:number]
            train += items[number:]
        return train, val
