"""Caltech101: 100 kinds of objects."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class Caltech101(SplitDataset):
    """BACKGROUND_Google and Faces_easy are not in the split; four classes have CoOp's names."""

    info = catalog.get("Caltech101")
    dataset_dir = info.folder
