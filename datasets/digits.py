"""Digits: 1,797 real handwritten digits (8x8), part of scikit-learn; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog, demo_sets

from .split_file import Place, SplitDataset


@DATASET_REGISTRY.register()
class Digits(SplitDataset):
    """Images are written under ``<DATASET.ROOT>/digits`` at first use; the split is a rule in the code."""

    info = catalog.get("Digits")

    def locate(self, cfg: Any) -> Place:
        demo_sets.prepare(demo_sets.DIGITS, Path(cfg.DATASET.ROOT).expanduser().absolute())
        return super().locate(cfg)
