"""Statistics of the views of an image: which ones are certain, which ones are alike."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """``[...]`` entropy in nats of the predictions of logits ``[..., K]``, in float32 or float64."""
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def kept_count(rho: float, views: int) -> int:
    """How many of ``views`` a share ``rho`` keeps: at least one."""
    return max(1, int(rho * views))


def by_certainty(logits: Tensor) -> Tensor:
    """``[..., V]`` int64: all views of logits ``[..., V, K]`` by rising entropy; the earlier one of equals first."""
    return entropy(logits).argsort(dim=-1, stable=True)


def choose(logits: Tensor, kept: int) -> Tensor:
    """``[..., kept]`` int64: views of lowest entropy, of logits ``[..., V, K]``; the earlier one of equals."""
    return by_certainty(logits)[..., :kept]


def pick(values: Tensor, rows: Tensor) -> Tensor:
    """``[b, n, D]``: the views ``rows [b, n]`` of ``values [b, V, D]``."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))


def neighbour_score(features: Tensor, k: int) -> Tensor:
    """``[..., V]``: each view's mean cosine with the ``k`` other views nearest to it; a view is no neighbour of its
    own, whatever rounding makes of its cosine with itself. A lone view's score is 0.

    Args:
        features: ``[..., V, L]`` of unit length.
        k: at most V - 1 count.
    """
    views = features.shape[-2]
    if (k := min(k, views - 1)) < 1:
        return features.new_zeros(features.shape[:-1])
    own = torch.eye(views, dtype=torch.bool, device=features.device)
    similarity = (features @ features.transpose(-1, -2)).masked_fill(own, -torch.inf)
    return similarity.topk(k, dim=-1).values.mean(-1)


def softmax_weights(score: Tensor, temperature: float) -> Tensor:
    """``[..., V]`` weights that sum to 1: the softmax of ``score / temperature``."""
    return (score / temperature).softmax(-1)


def log_mean_probability(logits: Tensor) -> Tensor:
    """``[..., K]``: logarithm of the mean over views of the predictions of logits ``[..., V, K]``; as logits they
    give that mean."""
    return logits.log_softmax(-1).logsumexp(-2) - math.log(logits.shape[-2])


def unit(features: Tensor) -> Tensor:
    """Features ``[..., L]`` of unit length."""
    return F.normalize(features, dim=-1)
