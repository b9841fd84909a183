"""The functions that attacks maximise: one number per image, never averaged over the batch.

``embedding`` objectives get the image embeddings of the attacked encoder, ``logits`` objectives the logits of the
attacked prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Space = Literal["embedding", "logits"]


@dataclass(frozen=True)
class Objective:
    """``loss(output, clean_output, y) -> [b]``.

    Args:
        uses_labels: False: the attacker needs no label.
        targeted: ``y`` is the class to reach instead of the one to leave.
    """

    name: str
    space: Space
    uses_labels: bool
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    summary: str
    targeted: bool = False


def kl_to_clean(output: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """KL(softmax(clean) || softmax(adversarial)). Of embeddings it is AdvPT's (section 4.1, equation 2: over their
    coordinates, not normalised, temperature 1, no label, no text), of logits TRADES's. Zero with zero gradient at the
    clean image: it needs a random start."""
    return F.kl_div(output.log_softmax(-1), clean.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def cross_entropy(output: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the attacked prompt's logits to the true label."""
    return F.cross_entropy(output, y, reduction="none")


def margin(output: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus the true one (Carlini and Wagner): positive when the image is misclassified."""
    true = output.gather(1, y[:, None]).squeeze(1)
    others = output.scatter(1, y[:, None], float("-inf"))
    return others.amax(1) - true


def logit(output: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """Minus the true class's logit (RAP's MaxLogit, untargeted)."""
    return -output.gather(1, y[:, None]).squeeze(1)


def target_logit(output: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """The logit of a target label, passed in place of the true one (Zhao et al., NeurIPS 2021)."""
    return output.gather(1, y[:, None]).squeeze(1)


def targeted(output: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """Minus the cross-entropy to a target label, passed in place of the true one."""
    return -F.cross_entropy(output, y, reduction="none")


def squared_distance(output: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distance of embeddings to those of the clean image, summed over coordinates, not normalised
    (FARE, Schlarmann et al., ICML 2024). Zero with zero gradient at the clean image: it needs a random start."""
    return (output - clean).square().sum(-1)


def absolute_distance(output: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """The same with absolute differences (FARE's variant, which its paper measures to be as good)."""
    return (output - clean).abs().sum(-1)


OBJECTIVES = {
    o.name: o
    for o in (
        Objective("fkl", "embedding", False, kl_to_clean, "KL between softmaxed embeddings (AdvPT)"),
        Objective("l2", "embedding", False, squared_distance, "squared distance between embeddings (FARE)"),
        Objective("l1", "embedding", False, absolute_distance, "absolute distance between embeddings (FARE)"),
        Objective("ce", "logits", True, cross_entropy, "cross-entropy to the true label"),
        Objective("kl", "logits", False, kl_to_clean, "KL between class probabilities (TRADES)"),
        Objective("margin", "logits", True, margin, "largest wrong logit minus the true one (CW)"),
        Objective("logit", "logits", True, logit, "the true class's logit, minimised"),
        Objective("target", "logits", True, targeted, "cross-entropy to a target label, minimised", targeted=True),
        Objective("target-logit", "logits", True, target_logit, "the logit of a target label", targeted=True),
    )
}

AT_REST = ("fkl", "kl", "l2", "l1")  # those without a gradient at the clean image

# The objective of images made elsewhere; no attack can have it.
NONE = Objective("none", "embedding", False, lambda output, clean, y: torch.zeros(len(output)), "not known")


def is_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """``[b]`` bool: the arg-max is not the label."""
    return torch.ne(logits.argmax(1), y)
