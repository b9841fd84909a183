"""One or more of each registered defense, noise of images by their ids, and random weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from advpt.attacks.noise import SampleNoise
from advpt.defenses import DEFENSES
from advpt.defenses.base import Defense
from advpt.defenses.diffpure import DiffPure
from advpt.defenses.edsr import EDSR, MEAN
from advpt.defenses.low_pass import MASKS, LowPass
from advpt.defenses.rescale import RandomRescale
from advpt.defenses.super_resolution import SuperResolution


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


def small_edsr() -> EDSR:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EDSR(2, 8).eval().requires_grad_(False)


def blur(x, index):
    """A noise model with a gradient and no weights."""
    return torch.tanh(x + 0.1 * x.roll(1, -1)) * (1 + index / 1000)


# What a defense takes part with in the contract; one that is not here, with its defaults.
EXAMPLES: dict[str, Callable[[], list[Defense]]] = {
    "low-pass": lambda: [LowPass(mask=mask) for mask in MASKS],
    "rescale": lambda: [RandomRescale(), RandomRescale(interp="bilinear", flip=True, low=1.0368)],
    "super": lambda: [SuperResolution(), SuperResolution(sigma=0.01, space="channel").use(small_edsr())],
    "diffpure": lambda: [
        DiffPure(t=4, model=blur, size=24),
        DiffPure(t=4, sampler="sde", model=blur, size=24),
        DiffPure(t=150, model=blur, size=24),
    ],
}
CASES = [case for name in DEFENSES for case in EXAMPLES.get(name, lambda name=name: [DEFENSES.get(name)()])()]
