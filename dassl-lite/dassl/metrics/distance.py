"""Pairwise distances."""

import torch
from torch import Tensor
from torch.nn import functional as F


def compute_distance_matrix(input1: Tensor, input2: Tensor, metric: str = "euclidean") -> Tensor:
    """Distances between the rows of two matrices.

    Args:
        input1: ``(M, D)``.
        input2: ``(N, D)``.
        metric: euclidean (squared, as upstream) or cosine.

    Returns:
        ``(M, N)``.

    Raises:
        ValueError: for another metric, or shapes that do not fit.
    """
    if input1.ndim != 2 or input2.ndim != 2 or input1.size(1) != input2.size(1):
        raise ValueError(f"need (M, D) and (N, D), got {tuple(input1.shape)} and {tuple(input2.shape)}")
    if metric == "euclidean":
        return euclidean_squared_distance(input1, input2)
    if metric == "cosine":
        return cosine_distance(input1, input2)
    raise ValueError(f"unknown distance metric {metric!r}; known: euclidean, cosine")


def euclidean_squared_distance(input1: Tensor, input2: Tensor) -> Tensor:
    """Squared Euclidean distances, ``(M, N)``."""
    squares = input1.square().sum(1, keepdim=True) + input2.square().sum(1)
    return torch.addmm(squares, input1, input2.t(), beta=1, alpha=-2)


def cosine_distance(input1: Tensor, input2: Tensor) -> Tensor:
    """1 - cosine similarity, ``(M, N)``."""
    return 1 - F.normalize(input1, dim=1) @ F.normalize(input2, dim=1).t()
