"""Builds data sets by name, and finds the folder with real test data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from dassl.data.datasets import DATASET_REGISTRY
from dataset_trees import Build
from yacs.config import CfgNode

import datasets  # noqa: F401 - registers all data sets

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real split files and the sample of pets; skips where there is none."""
    folder = REPOSITORY / os.environ.get("ADVPT_TEST_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set ADVPT_TEST_DATA to the folder with splits/ and pets_sample/")
    return folder


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
