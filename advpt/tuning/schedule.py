"""Dassl's learning rates from torch's own scheduler, for hosts whose warm-up classes do not run on a current torch."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from advpt.errors import ConfigError


def learning_rate(epoch: int, settings: Any) -> float:
    """The learning rate of an epoch (from 0): warm-up first, then the inner schedule from its beginning.

    ``settings`` is Dassl's OPTIM node. The cosine ends at MAX_EPOCH, not counting warm-up epochs, as Dassl has it.

    Raises:
        ConfigError: a schedule or warm-up that Dassl does not have either, or WARMUP_RECOUNT False.
    """
    s, warm = settings, max(0, settings.WARMUP_EPOCH)
    if warm and not s.WARMUP_RECOUNT:
        raise ConfigError("OPTIM.WARMUP_RECOUNT False is not supported with this host's torch; use True or dassl-lite")
    if epoch < warm:
        if s.WARMUP_TYPE == "constant":
            return s.WARMUP_CONS_LR
        if s.WARMUP_TYPE == "linear":
            return s.WARMUP_MIN_LR if epoch == 0 else s.LR * epoch / warm
        raise ConfigError(f"OPTIM.WARMUP_TYPE is {s.WARMUP_TYPE!r}; expected constant or linear")
    e = epoch - warm
    if s.LR_SCHEDULER == "cosine":
        return s.LR * (1 + math.cos(math.pi * e / s.MAX_EPOCH)) / 2
    if s.LR_SCHEDULER == "single_step":
        size = s.STEPSIZE[-1] if s.STEPSIZE[-1] > 0 else s.MAX_EPOCH
        return s.LR * s.GAMMA ** (e // size)
    if s.LR_SCHEDULER == "multi_step":
        return s.LR * s.GAMMA ** sum(e >= m for m in s.STEPSIZE)
    raise ConfigError(f"OPTIM.LR_SCHEDULER is {s.LR_SCHEDULER!r}; expected cosine, single_step or multi_step")


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """The rate of a step (from 0) as a share of the base rate: it rises to 1 in ``warmup`` steps, from 1 / warmup, then
    falls along a cosine to 0 at ``total``, where it stays (TeCoA's code, Mao et al., ICLR 2023)."""
    if step >= total:
        return 0.0
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def step_schedule(optimizer: Optimizer, warmup: int, total: int) -> LambdaLR:
    """A torch scheduler through :func:`warmup_cosine`, to be stepped after each batch."""
    return LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total))


def warmup_schedule(optimizer: Optimizer, settings: Any) -> LambdaLR:
    """A torch scheduler that steps through :func:`learning_rate`; its state is plain numbers."""
    return LambdaLR(optimizer, lambda epoch: learning_rate(epoch, settings) / settings.LR)
