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
