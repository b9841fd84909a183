"""Random numbers that belong to an image, not to its place in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from advpt.errors import AttackError


class SampleNoise:
    """One generator per image, seeded by its id and the attack seed alone: batch size, order, number of workers and
    device (the numbers are drawn on the CPU) do not change what an image gets."""

    def __init__(self, ids: Sequence[str], seed: int) -> None:
        self.ids = tuple(ids)
        self._seeds = [_number(f"{seed}:{name}") >> 1 for name in self.ids]
        self._generators = [torch.Generator().manual_seed(value) for value in self._seeds]

    def __len__(self) -> int:
        return len(self._generators)

    @property
    def batch_seed(self) -> int:
        """One number below 2**31 for code that can only be seeded as a whole: of these images in this order."""
        return _number(f"batch:{self._seeds}") >> 33

    def uniform(self, like: Tensor, low: float, high: float) -> Tensor:
        """Uniform in [low, high], of the shape, dtype and device of ``like [b, ...]``."""
        return self._draw(torch.rand, like) * (high - low) + low

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, of the shape, dtype and device of ``like [b, ...]``."""
        return self._draw(torch.randn, like)

    def _draw(self, kind: Callable[..., Tensor], like: Tensor) -> Tensor:
        if len(like) != len(self._generators):
            raise ValueError(f"{len(self._generators)} generators for a batch of {len(like)}")
        return torch.stack([kind(like.shape[1:], generator=g, dtype=torch.float32) for g in self._generators]).to(like)


def choose_targets(y: Tensor, classes: int, ids: Sequence[str], seed: int) -> Tensor:
    """``[b]`` int64: for each image a class other than its label ``y [b]``, by its id and the attack seed alone."""
    if classes < 2:
        raise AttackError("a targeted attack needs at least two classes")
    jump = [1 + _number(f"target:{seed}:{sample}") % (classes - 1) for sample in ids]
    return (y + torch.tensor(jump, dtype=torch.int64, device=y.device)) % classes


def _number(text: str) -> int:
    """The first 64 bits of the text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def as_noise(generator: SampleNoise | torch.Generator, n: int) -> SampleNoise:
    """Per-image generators from either kind: a plain generator gives each image its next draw as a seed."""
    if isinstance(generator, SampleNoise):
        return generator
    seeds = torch.randint(2**62, (n,), generator=generator).tolist()
    return SampleNoise([str(seed) for seed in seeds], 0)
