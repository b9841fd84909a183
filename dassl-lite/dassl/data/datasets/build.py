"""Registry of datasets."""

from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: CfgNode) -> Any:
    """Make the dataset named by ``cfg.DATASET.NAME``; ValueError if none is registered so."""
    return DATASET_REGISTRY.build(cfg.DATASET.NAME, cfg)
