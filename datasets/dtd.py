"""Describable Textures (DTD): 47 textures."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class DescribableTextures(SplitDataset):
    """CoOp's random 50/20/30 cut, not one of DTD's ten splits."""

    info = catalog.get("DescribableTextures")
    dataset_dir = info.folder
