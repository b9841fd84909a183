"""The data sets; importing this package registers them all with Dassl.

Every file in this folder is imported. A data set of the catalogue that no file registers gets the class that its
facts ask for: a :class:`SplitDataset` where there is a split file, an :class:`ImageNetVariant` where there are
ImageNet's class folders, :class:`TrainTestFolders` or :class:`WholeFolders` where there are others.
"""

from __future__ import annotations

import importlib
import pkgutil

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from advpt.data import catalog
from advpt.data.facts import DatasetFacts

from . import class_folders, imagenet, split_file


def class_for(facts: DatasetFacts) -> type[DatasetBase]:
    """A class of the registry's name whose facts are all that tells it from others of its kind."""
    base: type[split_file.CatalogDataset] = split_file.SplitDataset if facts.split else imagenet.ImageNetVariant
    if facts.classnames:
        base = class_folders.TrainTestFolders if facts.counts[0] else class_folders.WholeFolders
    return type(facts.name, (base,), {"info": facts, "__doc__": " ".join(facts.notes), "__module__": __name__})


for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
for _name in catalog.names():
    if _name not in DATASET_REGISTRY.registered_names():
        DATASET_REGISTRY.register()(class_for(catalog.get(_name)))
