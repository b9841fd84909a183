"""Dataset base classes and registry."""

from dassl.data.datasets.base_dataset import DatasetBase, Datum
from dassl.data.datasets.build import DATASET_REGISTRY, build_dataset
