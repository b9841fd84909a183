"""Oxford 102 Flowers: 102 classes."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class OxfordFlowers(SplitDataset):
    """CoOp's random 50/20/30 cut, not the data set's official split."""

    info = catalog.get("OxfordFlowers")
    dataset_dir = info.folder
