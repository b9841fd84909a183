"""Oxford-IIIT Pet: 37 breeds of cats and dogs."""

from __future__ import annotations

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum

from advpt.data import catalog
from advpt.data.split import read

from .split_file import SplitDataset, datums, subsample_classes


@DATASET_REGISTRY.register()
class OxfordPets(SplitDataset):
    """The official test; the official trainval cut 80/20 per class.

    CoOp's other data set files call two helpers of this class, so they are here under the same names.
    """

    info = catalog.get("OxfordPets")
    dataset_dir = info.folder

    subsample_classes = staticmethod(subsample_classes)

    @staticmethod
    def read_split(filepath: str, path_prefix: str) -> tuple[list[Datum], list[Datum], list[Datum]]:
        """Train, val and test of a split file whose paths are relative to ``path_prefix``."""
        split, _ = read(Path(filepath))
        train, val, test = (datums(rows, path_prefix) for rows in split.parts().values())
        return train, val, test
