"""FGVC Aircraft: 100 variants of aircraft, split by the data set's own lists."""

from __future__ import annotations

import warnings
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog, steps
from advpt.data.split import Row, Split, check, triple
from advpt.errors import DataError
from advpt.files import read_text

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class FGVCAircraft(SplitDataset):
    """Labels are line numbers of variants.txt; parts are images_variant_{train,val,test}.txt."""

    info = catalog.get("FGVCAircraft")

    def origin(self) -> str:
        return "images_variant_*.txt"

    def read(self) -> tuple[Split, bool]:
        folder = self.place.folder
        labels = {name: label for label, name in enumerate(self._lines(folder / "variants.txt"))}
        train, val, test = (
            self._rows(folder / f"images_variant_{part}.txt", labels) for part in ("train", "val", "test")
        )
        split = Split(train, val, test)
        check(split, f"{folder}/{self.origin()}")
        official = split.counts() == self.info.counts
        if not official:
            warnings.warn(
                f"{folder}: {triple(split.counts())} images in train / val / test, the official lists have "
                f"{triple(self.info.counts)}. Results are marked as not comparable with published ones.",
                stacklevel=2,
            )
        return split, official

    def _rows(self, path: Path, labels: dict[str, int]) -> tuple[Row, ...]:
        rows = []
        for number, line in enumerate(self._lines(path), 1):
            image, _, variant = line.partition(" ")
            if variant not in labels:
                raise DataError(
                    f"{path}, line {number} is {line!r}; expected an image number and a name of variants.txt."
                )
            rows.append((f"{image}.jpg", labels[variant], variant))
        return tuple(rows)

    def _lines(self, path: Path) -> list[str]:
        try:
            lines = read_text(path, DataError).splitlines()
        except FileNotFoundError:
            raise DataError(
                f"{path.name} is missing: expected at {path}. Run `{steps.command(self.info, self.place.root)}`."
            ) from None
        return [line.strip() for line in lines if line.strip()]
