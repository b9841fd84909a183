"""SUN397: 397 scenes."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class SUN397(SplitDataset):
    """Images in the original tree, SUN397/<letter>/<class>[/<sub>]."""

    info = catalog.get("SUN397")
    dataset_dir = info.folder
