"""Food-101: 101 dishes."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class Food101(SplitDataset):
    """CoOp's random 50/20/30 cut of all 101,000 images."""

    info = catalog.get("Food101")
    dataset_dir = info.folder
