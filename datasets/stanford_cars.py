"""Stanford Cars: 196 models."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog

from .split_file import SplitDataset


@DATASET_REGISTRY.register()
class StanfordCars(SplitDataset):
    """Paths of the split begin with cars_train/ or cars_test/."""

    info = catalog.get("StanfordCars")
    dataset_dir = info.folder
