"""One pure function per method: tensors in, scalar loss out; no model, no configuration."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def advpt(features: Tensor, text: Tensor, scale: float, labels: Tensor) -> Tensor:
    """Cross-entropy of stored adversarial embeddings to the learned prompts (AdvPT, eq. 6; CoOp's loss, eq. 3).

    Args:
        features: ``[b, L]`` image embeddings, not normalised. text: ``[K, L]`` text features, not normalised.
        scale: the logit scale. labels: ``[b]`` int64.
    """
    logits = scale * F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).T
    return F.cross_entropy(logits, labels)


def adversarial_training(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of attacked images (Madry et al., ICLR 2018; Fast AT, Wong et al., ICLR 2020, has the same loss).

    Args:
        logits: ``[b, K]`` of the attacked images. labels: ``[b]`` int64.
    """
    return F.cross_entropy(logits, labels)


def trades(clean: Tensor, attacked: Tensor, labels: Tensor, beta: float) -> Tensor:
    """CE(clean) + beta KL(p(clean) || p(attacked)), means over the batch (TRADES, Zhang et al., ICML 2019).

    The gradient of the KL flows through both branches, as in the authors' code.

    Args:
        clean, attacked: ``[b, K]`` logits. labels: ``[b]`` int64. beta: weight of the KL, 6 in most of the paper.
    """
    kl = F.kl_div(attacked.log_softmax(-1), clean.log_softmax(-1), reduction="batchmean", log_target=True)
    return F.cross_entropy(clean, labels) + beta * kl
