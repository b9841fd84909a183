"""FGVC Aircraft: 100 variants of aircraft, split by the lists that come with them."""

from __future__ import annotations

import warnings

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog, steps
from advpt.data.split import Split, read_lists, triple
from advpt.errors import DataError

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class FGVCAircraft(SplitDataset):
    """Labels are line numbers of variants.txt; parts are images_variant_{train,val,test}.txt."""

    info = catalog.get("FGVCAircraft")

    def origin(self) -> str:
        return "images_variant_*.txt"

    def read(self) -> tuple[Split, bool]:
        folder = self.place.folder
        try:
            split = read_lists(folder)
        except DataError as error:
            raise DataError(f"{error}. Run `{steps.command(self.info, self.place.root)}`") from None
        official = split.counts() == self.info.counts
        if not official:
            warnings.warn(
                f"{folder}: {triple(split.counts())} images in train / val / test, the official lists have "
                f"{triple(self.info.counts)}. Results are marked as not comparable with published ones",
                stacklevel=2,
            )
        return split, official
