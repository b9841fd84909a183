"""AdamW on prompts that each sample has its own of: the steps themselves, and the same steps differentiable for
attackers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)

BETAS, EPS, DECAY = (0.9, 0.999), 1e-8, 0.01  # PyTorch's defaults
SMOOTH_STEP = "through the steps, whose sign is smooth backward"  # of :func:`unroll`, for records
Values = dict[str, Tensor]
Loss = Callable[[Values], Tensor]  # values [S, ...] to losses [S]


def descend(start: Values, loss: Loss, steps: int, lr: float, decay: float = DECAY) -> tuple[Values, Tensor]:
    """Values after ``steps`` of AdamW from a fresh state, without a graph, and ``[S]`` bool, the samples whose gradient
    was not finite: they keep their start. Nothing but the values is differentiated.

    Args:
        start: tensors ``[S, ...]`` by name; not changed. decay: weight decay.
    """
    now = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.AdamW(now.values(), lr=lr, betas=BETAS, eps=EPS, weight_decay=decay)
    first = next(iter(now.values()))
    broken = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    with torch.enable_grad():
        for _ in range(steps):
            gradients = torch.autograd.grad(loss(now).sum(), list(now.values()), allow_unused=True)
            for value, gradient in zip(now.values(), gradients):
                value.grad = gradient
            broken |= _not_finite(now)
            optimizer.step()
    if bool(broken.any()):
        now = {name: _where(broken, start[name], value) for name, value in now.items()}
    return {name: value.detach() for name, value in now.items()}, broken


def warn_not_finite(broken: Tensor, ids: Sequence[str]) -> list[str]:
    """The ids of the samples that ``broken [S]`` names, with a warning if there are any."""
    bad = [name for name, each in zip(ids, broken.tolist()) if each]
    if bool(broken.any()):
        log.warning(
            "the gradient of %d image(s) was not finite (%s); they keep the prompts they had", len(bad), bad[:1]
        )
    return bad


def unroll(start: Values, loss: Loss, steps: int, lr: float, decay: float = DECAY) -> Values:
    """Values as :func:`descend` gives them, differentiable in all that ``loss`` depends on. AdamW's first step is
    almost the sign of the gradient, whose derivative is zero: backward, the denominator is that of a smooth sign with
    the sample's mean size. Needs enabled gradients, and attention with a second derivative."""
    now = {name: value.clone().requires_grad_() for name, value in start.items()}
    first = {name: torch.zeros_like(value) for name, value in now.items()}
    second = dict(first)
    for step in range(1, steps + 1):
        gradients = dict(zip(now, torch.autograd.grad(loss(now).sum(), list(now.values()), create_graph=True)))
        for name, g in gradients.items():
            first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * g
            second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * g.detach().square()
            m = first[name] / (1 - BETAS[0] ** step)
            size = (second[name] / (1 - BETAS[1] ** step)).sqrt()
            now[name] = now[name] * (1 - lr * decay) - lr * direction(m, size + EPS)
    return now


def direction(m: Tensor, size: Tensor) -> Tensor:
    """``m / size``, with the gradient of ``m / (|m| + mean |m|)`` of each sample."""
    around = m.detach().abs().flatten(1).mean(1).view(-1, *[1] * (m.dim() - 1))
    smooth = m / (m.abs() + around + EPS)
    return smooth + (m / size - smooth).detach()


def _not_finite(values: Values) -> Tensor:
    """``[S]`` bool, the samples whose gradient is not finite; sets it to zero there."""
    bad = torch.stack([~v.grad.isfinite().flatten(1).all(1) for v in values.values() if v.grad is not None]).any(0)
    if bool(bad.any()):
        for value in values.values():
            if value.grad is not None:
                value.grad = _where(bad, torch.zeros_like(value.grad), value.grad)
    return bad


def _where(which: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(which.view(-1, *[1] * (other.dim() - 1)), one, other)
