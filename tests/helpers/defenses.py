"""Noise of images by their ids, and random weights for defenses."""

from __future__ import annotations

import torch

from advpt.attacks.noise import SampleNoise
from advpt.defenses.edsr import EDSR, MEAN


def noise(n: int = 4, seed: int = 0) -> SampleNoise:
    return SampleNoise([f"image {i}" for i in range(n)], seed)


# --- EDSR -------------------------------------------------------------------------------------------------------


def published_like(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names and shapes of the published file, mean shifts included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = dict(EDSR().state_dict())
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        state[f"{name}.weight"] = torch.eye(3).reshape(3, 3, 1, 1)
        state[f"{name}.bias"] = sign * 255 * torch.tensor(MEAN)
    return state


def picture(n: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
