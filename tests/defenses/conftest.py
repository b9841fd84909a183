"""Random images, and diffusers where it is installed."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def pixels():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason='diffusers is not installed: pip install "advpt[diffpure]"')
