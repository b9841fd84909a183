"""One pure function per loss: tensors in, scalar loss out; no model, no configuration. Methods whose loss is the
cross-entropy of logits (CoCoOp, adversarial training) call PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

KL_DIRECTIONS = ("target_is_reference", "reverse")
KL_REDUCTIONS = ("mean", "sum")
AXES = ("channels", "tokens")
DISTANCES = ("l2", "l1", "cosine")
SMALLEST = 1e-12


def advpt(features: Tensor, text: Tensor, scale: float, labels: Tensor) -> Tensor:
    """Cross-entropy of stored adversarial embeddings to the learned prompts (AdvPT, equation 3; CoOp's is the same).

    Args:
        features, text: ``[b, L]`` of images and ``[K, L]`` of prompts, not normalised. scale: of the logits.
        labels: ``[b]`` int64.
    """
    logits = scale * F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).T
    return F.cross_entropy(logits, labels)


def trades(clean: Tensor, attacked: Tensor, labels: Tensor, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
    """CE(clean) + beta KL(p(clean) || p(attacked)), means over the batch (TRADES, Zhang et al., ICML 2019), and its
    parts for the log. The gradient of the KL flows through both branches, as in the authors' code.

    Args:
        clean, attacked: ``[b, K]`` logits. labels: ``[b]`` int64. beta: weight of the KL, 6 in most of the paper.
    """
    kl = F.kl_div(attacked.log_softmax(-1), clean.log_softmax(-1), reduction="batchmean", log_target=True)
    ce = F.cross_entropy(clean, labels)
    return ce + beta * kl, {"ce": ce.detach(), "kl": kl.detach()}


def fare(attacked: Tensor, reference: Tensor, norm: str = "l2") -> Tensor:
    """Mean over the batch of the squared distance of embeddings, summed over coordinates (FARE, Schlarmann et al., ICML
    2024). Embeddings are not normalised; a mean over coordinates would be L times smaller.

    Args:
        attacked: ``[b, L]`` of the tuned tower on attacked images. reference: ``[b, L]`` of the frozen tower on clean
            ones, without gradient. norm: ``l2``, or ``l1`` for the sum of absolute differences.
    """
    difference = attacked - reference
    return (difference.square() if norm == "l2" else difference.abs()).sum(-1).mean()


def divergence(reference: Tensor, attacked: Tensor, direction: str = "target_is_reference") -> Tensor:
    """``[b]`` KL(p(reference) || p(attacked)), or with ``reverse`` KL(p(attacked) || p(reference)), of ``[b, K]``
    logits; summed over classes, in float32 or better. The gradient at ``attacked`` of the first is p(attacked) -
    p(reference).
    """
    p, q = (logits.to(at_least_float32(logits)).log_softmax(-1) for logits in (reference, attacked))
    if direction == "reverse":
        p, q = q, p
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def pmg_aft(
    attacked: Tensor,
    clean: Tensor,
    frozen: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    direction: str = "target_is_reference",
    reduction: str = "mean",
) -> tuple[Tensor, dict[str, Tensor]]:
    """CE(attacked) + alpha KL(p(frozen) || p(attacked)) + beta KL(p(clean) || p(attacked)) (PMG-AFT, Wang et al., CVPR
    2024), and its parts for the log: ``ce``, ``general`` (the KL to the frozen tower), ``clean``. Gradients flow
    through the attacked and the clean logits.

    Args:
        attacked, clean: ``[b, K]`` logits of the tuned tower. frozen: ``[b, K]`` of the frozen tower on the *attacked*
            images; no gradient flows there. labels: ``[b]`` int64.
        direction: ``reverse`` swaps the sides of both KLs.
        reduction: of both KLs over the batch, ``mean`` or ``sum``; the cross-entropy is a mean.
    """
    general, own = (divergence(reference, attacked, direction) for reference in (frozen.detach(), clean))
    general, own = (kl.mean() if reduction == "mean" else kl.sum() for kl in (general, own))
    ce = F.cross_entropy(attacked, labels)
    return ce + alpha * general + beta * own, {"ce": ce.detach(), "general": general.detach(), "clean": own.detach()}


def attention_map(
    tokens: Tensor,
    text: Tensor,
    size: tuple[int, int],
    *,
    grid: tuple[int, int] | None = None,
    axis: str = "channels",
    resize_first: bool = False,
) -> Tensor:
    """``[b, H W]`` in [0, 1]: where in an image its class is (TGA-ZSR, Yu et al., NeurIPS 2024), from the products of
    patch tokens with a text feature; smallest and largest of an image become 0 and 1, and the grid of patches is
    enlarged bilinearly, its corners not aligned. A constant map is 0, and so is its gradient's part of a division by
    its range.

    Args:
        tokens: ``[b, 1 + P, L]`` of the tower behind its projection, the class token first, not normalised.
        text: ``[b, L]`` the text feature of each image's true class; its length does not matter.
        size: height and width of the map. grid: rows and columns of the P patches, row by row; None: a square.
        axis: tokens are made of unit length over their ``channels`` (the cosine of a token and the text: the paper), or
            each channel over the ``tokens``, the class token among them (the released code).
        resize_first: smallest and largest are those of the enlarged map (the paper's text), not of the grid (its code).
    """
    unit = F.normalize(tokens, dim=-1 if axis == "channels" else 1)
    similarity = _rescaled((unit[:, 1:] @ text.unsqueeze(-1)).squeeze(-1))
    rows, columns = grid or (math.isqrt(similarity.shape[1]),) * 2
    enlarged = F.interpolate(similarity.view(-1, 1, rows, columns), size, mode="bilinear").flatten(1)
    return _rescaled(enlarged) if resize_first else enlarged  # what was rescaled before does not matter behind another


def _rescaled(x: Tensor) -> Tensor:
    """``x [b, n]`` with the smallest of each row at 0 and the largest at 1; a constant row is 0."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    span = high - low
    return (x - low) / torch.where(span > SMALLEST, span, 1.0)


def complement(attention: Tensor, negated: Tensor) -> Tensor:
    """The complementary map of Comp-TGA (arXiv 2603.18598): A_class (1 - A_not), of maps by :func:`attention_map` of
    the class's text and of its negation."""
    return attention * (1 - negated)


def map_distance(maps: Tensor, reference: Tensor, distance: str = "l2") -> Tensor:
    """``[b]`` distance of maps ``[b, n]``: ``l2`` the norm of the difference (not its square), ``l1`` the mean of
    absolute differences, ``cosine`` 1 - cosine."""
    if distance == "cosine":
        return 1 - F.cosine_similarity(maps, reference, dim=-1)
    difference = maps - reference
    return torch.linalg.vector_norm(difference, dim=-1) if distance == "l2" else difference.abs().mean(-1)


def tga(
    attacked: Tensor,
    labels: Tensor,
    attacked_maps: Tensor,
    clean_maps: Tensor,
    reference: Tensor,
    *,
    alpha: float = 0.08,
    beta: float = 0.05,
    distance: str = "l2",
) -> tuple[Tensor, dict[str, Tensor]]:
    """CE(attacked) + alpha mean d(A(x_a), A_0(x)) + beta mean d(A(x), A_0(x)) (TGA-ZSR, Yu et al., NeurIPS 2024), and
    its parts for the log: ``ce``, ``refinement``, ``constraint``.

    Args:
        attacked: ``[b, K]`` logits of the tuned tower on attacked images. labels: ``[b]`` int64.
        attacked_maps, clean_maps: ``[b, n]`` of the tuned tower by :func:`attention_map` or :func:`complement`.
        reference: ``[b, n]`` of the frozen tower on the *clean* images, without gradient.
        distance: d, see :func:`map_distance`.
    """
    ce = F.cross_entropy(attacked, labels)
    refinement, constraint = (map_distance(maps, reference, distance).mean() for maps in (attacked_maps, clean_maps))
    parts = {"ce": ce, "refinement": refinement, "constraint": constraint}
    return ce + alpha * refinement + beta * constraint, {name: value.detach() for name, value in parts.items()}


def fap(
    clean: Tensor, attacked: Tensor, clean_features: Tensor, attacked_features: Tensor, labels: Tensor, weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """CE(clean) + weight * mean((1 + cos) KL(p(clean) || p(attacked))) (FAP, Zhou et al., NeurIPS 2024), and its parts
    for the log: ``ce``, ``kl`` (mean, without the factor). The factor pushes image features apart while the KL keeps
    predictions together; both branches have gradients.

    Args:
        clean, attacked: ``[b, K]`` logits. clean_features, attacked_features: ``[b, L]``. labels: ``[b]`` int64.
    """
    kl = divergence(clean, attacked)
    factor = 1 + F.cosine_similarity(clean_features, attacked_features, dim=-1)
    ce = F.cross_entropy(clean, labels)
    return ce + weight * (factor * kl).mean(), {"ce": ce.detach(), "kl": kl.mean().detach()}


def capt(
    clean: Tensor,
    attacked: Tensor,
    frozen: Tensor,
    labels: Tensor,
    alpha: Tensor,
    *,
    weight: float,
    direction: str = "target_is_reference",
    temperature: float = 1.0,
    detach_clean: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """CE(clean) + weight * mean((1 - alpha) KL_train + alpha KL_frozen) (CAPT, Yang et al., arXiv 2405.11154), and the
    means of its parts for the log.

    KL_train is between the tuned model on the clean and on the attacked image, KL_frozen between the frozen model on
    the clean and the tuned one on the attacked image. Only the form of the sum is public; its terms (the definition of
    KL_train, the direction, the rule for alpha) are a documented choice, not the paper's. alpha 0 is TRADES, alpha 1
    distillation from the frozen model, weight 0 clean tuning.

    Args:
        clean, attacked, frozen: ``[b, K]`` logits. labels: ``[b]`` int64. alpha: ``[b]`` in [0, 1], without gradient.
        temperature: divides logits in both KL terms. detach_clean: no gradient through KL_train's clean branch.
    """
    tuned = (clean.detach() if detach_clean else clean) / temperature
    train = divergence(tuned, attacked / temperature, direction)
    guided = divergence(frozen.detach() / temperature, attacked / temperature, direction)
    ce = F.cross_entropy(clean, labels)
    loss = ce + weight * ((1 - alpha) * train + alpha * guided).mean()
    parts = {"ce": ce, "kl": train.mean(), "kl_frozen": guided.mean(), "alpha": alpha.mean()}
    return loss, {name: value.detach() for name, value in parts.items()}


def _by_confidence(clean: Tensor, frozen: Tensor, labels: Tensor) -> Tensor:
    """p_f[y] / (p_f[y] + p_c[y]), per image."""
    c, f = (logits.softmax(-1).gather(1, labels[:, None]).squeeze(1) for logits in (clean, frozen))
    return f / (f + c).clamp_min(1e-12)


def _by_loss(clean: Tensor, frozen: Tensor, labels: Tensor) -> Tensor:
    """CE_c / (CE_c + CE_f), of the batch."""
    c, f = (F.cross_entropy(logits, labels) for logits in (clean, frozen))
    return (c / (c + f).clamp_min(1e-12)).expand(len(labels))


def _by_entropy(clean: Tensor, frozen: Tensor, labels: Tensor) -> Tensor:
    """H_c / (H_c + H_f), per image, without labels."""
    c, f = (-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1) for logits in (clean, frozen))
    return c / (c + f).clamp_min(1e-12)


# Weights of the frozen model in CAPT, from logits [b, K] and labels [b]. The paper's rule is not public.
ALPHA_RULES = {"confidence": _by_confidence, "loss": _by_loss, "entropy": _by_entropy}


@torch.no_grad()
def capt_alpha(rule: str, clean: Tensor, frozen: Tensor, labels: Tensor, given: float) -> Tensor:
    """CAPT's ``alpha [b]`` in [0, 1] by one of :data:`ALPHA_RULES`; by any other name it is ``given`` for all."""
    if rule not in ALPHA_RULES:
        return torch.full((len(labels),), given, device=clean.device)
    return ALPHA_RULES[rule](clean.detach().float(), frozen.detach().float(), labels)


ALIGN_FORMS = ("mean", "norm")


def averaged_entropy(logits: Tensor) -> Tensor:
    """``[...]`` entropy (nats) of the mean prediction over views, of logits ``[..., views, K]`` (TAPT, equation
    3; Shu et al., NeurIPS 2022). It is at least the mean of the entropies and at most log K."""
    log_p = logits.log_softmax(-1).logsumexp(-2) - math.log(logits.shape[-2])
    return -(log_p.exp() * log_p).sum(-1)


def alignment(tokens: Tensor, reference: tuple[Tensor, Tensor], *, form: str = "mean", unbiased: bool = True) -> Tensor:
    """``[...]`` L1 distance of a layer's statistics over views to stored ones, means and variances (TAPT, equations
    6 to 8).

    Args:
        tokens: ``[..., views, T, D]`` the input of a block. reference: mean and variance, each ``[T, D]``.
        form: ``norm`` sums over tokens and channels (the paper); ``mean`` is half the mean difference of the means plus
            half that of the variances (the released code).
        unbiased: variance over views - 1; a single view has variance 0 either way.
    """
    mean = tokens.mean(-3)
    views = tokens.shape[-3]
    variance = (tokens - mean.unsqueeze(-3)).square().sum(-3) / (views - 1 if unbiased and views > 1 else views)
    distances = [(mine - stored).abs().flatten(-2) for mine, stored in zip((mean, variance), reference)]
    return sum((0.5 * d.mean(-1) if form == "mean" else d.sum(-1) for d in distances), tokens.new_zeros(()))


def tapt(
    logits: Tensor,
    tokens: Sequence[Tensor],
    adversarial: Sequence[tuple[Tensor, Tensor]],
    clean: Sequence[tuple[Tensor, Tensor]],
    *,
    alpha: float = 0.5,
    align_weight: float = 1.0,
    entropy_weight: float = 1.0,
    form: str = "mean",
    unbiased: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Entropy of the averaged prediction + alignment to two sets of statistics (TAPT, equations 3 and 6 to 8).

    ``entropy_weight * H + align_weight * sum over blocks (alpha L_adv + (1 - alpha) L_clean)``, ``[...]`` for each
    sample, and its parts before weights.

    Args:
        logits: ``[..., views, K]`` of the selected views. tokens: for each aligned block ``[..., views, T, D]``.
        adversarial, clean: for each aligned block its stored mean and variance, ``[T, D]`` each, without gradient.
    """
    entropy = averaged_entropy(logits)
    nothing = torch.zeros_like(entropy)
    adv, own = (
        sum((alignment(x, r, form=form, unbiased=unbiased) for x, r in zip(tokens, bank, strict=True)), nothing)
        for bank in (adversarial, clean)
    )
    loss = entropy_weight * entropy + align_weight * (alpha * adv + (1 - alpha) * own)
    return loss, {"entropy": entropy.detach(), "align_adv": adv.detach(), "align_clean": own.detach()}


def balance(weights: Tensor) -> Tensor:
    """Mean over experts of the squared distance of their mean weight to an equal share (TAME's code).

    Args:
        weights: ``[b, E]`` of one layer, in rows that sum to 1.
    """
    return (weights.mean(0) - 1 / weights.shape[1]).square().mean()


def diversity(experts: Tensor) -> Tensor:
    """Mean over pairs of experts of their cosine where it is positive, summed over layers (TAME's code).

    Args:
        experts: ``[layers, E, n, D]``. A single expert has no pair: 0.
    """
    e = experts.shape[1]
    if e < 2:
        return experts.new_zeros(())
    unit = F.normalize(experts.flatten(2), dim=-1)
    one, other = torch.triu_indices(e, e, 1, device=experts.device)
    return (unit[:, one] * unit[:, other]).sum(-1).clamp_min(0).mean(-1).sum()
