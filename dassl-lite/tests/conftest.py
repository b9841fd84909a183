"""Fixtures shared by the tests of dassl-lite."""

import random
import sys

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _leave_global_state_alone():
    """Random generators and standard output are put back after each test."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    stdout = sys.stdout
    yield
    sys.stdout = stdout
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture
def cfg(tmp_path):
    """Default configuration for tiny CPU runs, with CoOp's extra key."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.USE_CUDA = False
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATASET.ROOT = str(tmp_path / "data")
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
    cfg.INPUT.SIZE = (8, 8)
    cfg.INPUT.INTERPOLATION = "bicubic"
    return cfg
