"""Top-k accuracy."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def compute_accuracy(output: Any, target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """Top-k accuracies of one batch.

    Args:
        output: ``(B, C)`` scores; of a tuple or list the first entry is used.
        target: ``(B,)`` labels.
        topk: the k's.

    Returns:
        For each k a one-element tensor, percent.
    """
    if isinstance(output, (tuple, list)):
        output = output[0]
    best = output.topk(max(topk), dim=1).indices
    hit = best == target.reshape(-1, 1)
    return [hit[:, :k].any(1).sum().to(torch.float32).reshape(1) * (100.0 / target.numel()) for k in topk]
