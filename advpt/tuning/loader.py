"""Batches of a bank, in the form of Dassl's training batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from advpt.bank.store import Bank


def batch_seed(seed: int, epoch: int, batch: int) -> int:
    """Seed of what is drawn in one batch of one epoch of a run alone."""
    return ((seed * 1_000_003 + epoch) * 1_000_003 + batch) % 2**63


class BankLoader:
    """Shuffled batches ``{"img": [b, L] embeddings, "label": [b]}`` of a bank; no image is read.

    The order of an epoch depends on ``seed`` and ``epoch`` alone, so a run that continues sees what an uninterrupted
    one saw. As Dassl's training loaders, it drops a last incomplete batch unless that is all there is.
    """

    def __init__(self, bank: Bank, *, batch_size: int, seed: int) -> None:
        self.bank, self.batch_size, self.seed, self.epoch = bank, batch_size, seed, 0

    def __len__(self) -> int:
        return max(1, len(self.bank) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(len(self.bank), generator=generator)
        for rows in order.split(self.batch_size)[: len(self)]:
            yield {"img": self.bank.embeddings[rows], "label": self.bank.labels[rows]}
