"""Random numbers that belong to an image, not to its place in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class SampleNoise:
    """One generator per image, seeded by its id and the attack seed alone.

    Batch size, order, and number of workers do not change what an image gets; neither does the device, since the numbers
    are drawn on the CPU.
    """

    def __init__(self, ids: Sequence[str], seed: int) -> None:
        self._generators = []
        for sample in ids:
            value = hashlib.sha256(f"{seed}:{sample}".encode()).digest()[:8]
            generator = torch.Generator()
            generator.manual_seed(int.from_bytes(value, "big") >> 1)
            self._generators.append(generator)

    def __len__(self) -> int:
        return len(self._generators)

    def uniform(self, like: Tensor, low: float, high: float) -> Tensor:
        """Uniform in [low, high], of the shape, dtype and device of ``like [b, ...]``."""
        return self._draw(torch.rand, like) * (high - low) + low

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, of the shape, dtype and device of ``like [b, ...]``."""
        return self._draw(torch.randn, like)

    def _draw(self, kind: object, like: Tensor) -> Tensor:
        if len(like) != len(self._generators):
            raise ValueError(f"{len(self._generators)} generators for a batch of {len(like)}")
        rows = [kind(like.shape[1:], generator=g, dtype=torch.float32) for g in self._generators]  # type: ignore[operator]
        return torch.stack(rows).to(like)


def as_noise(generator: SampleNoise | torch.Generator, n: int) -> SampleNoise:
    """Per-image generators from either kind: a plain generator gives each image its next draw as a seed."""
    if isinstance(generator, SampleNoise):
        return generator
    seeds = torch.randint(2**62, (n,), generator=generator).tolist()
    return SampleNoise([str(seed) for seed in seeds], 0)
