"""Builds data sets by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dassl.data.datasets import DATASET_REGISTRY
from yacs.config import CfgNode

import datasets  # noqa: F401 - registers all data sets
from tests.helpers.dataset_trees import Build


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """``build(name, root=..., shots=-1, seed=1, subsample="all", test_subset="")`` -> the data set."""

    def make(
        name: str,
        root: Path = tmp_path,
        shots: int = -1,
        seed: int = 1,
        subsample: str = "all",
        test_subset: str = "",
        **extra: str,
    ) -> Any:
        cfg = CfgNode({"SEED": seed, "DATASET": {"NAME": name, "ROOT": str(root), "NUM_SHOTS": shots}})
        cfg.DATASET.SUBSAMPLE_CLASSES = subsample
        cfg.DATASET.TEST_SUBSET = test_subset
        cfg.DATASET.update(extra)
        return DATASET_REGISTRY.get(name)(cfg)

    return make
