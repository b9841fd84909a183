"""UCF101: the middle frames of videos of 101 actions."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class UCF101(SplitDataset):
    """Frames in UCF-101-midframes/<Class_Name>; the videos themselves are not used."""

    info = catalog.get("UCF101")
    dataset_dir = info.folder
