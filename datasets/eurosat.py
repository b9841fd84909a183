"""EuroSAT: satellite images of 10 kinds of land use."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class EuroSAT(SplitDataset):
    """CoOp's random 50/20/30 cut, with its longer class names."""

    info = catalog.get("EuroSAT")
    dataset_dir = info.folder
