"""Learning-rate schedules, stepped once per epoch."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR
from yacs.config import CfgNode

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]
INNER = "successor_state"


class _BaseWarmupScheduler(LRScheduler):
    """Own rates for ``warmup_epoch`` epochs, then an inner schedule, started from its step 0.

    A subclass overrides :meth:`warmup_lr`, or :meth:`get_lr` as a whole (as code written for upstream does).
    ``last_epoch`` stays at ``warmup_epoch`` once the inner schedule has taken over. ``verbose`` is ignored.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, last_epoch)

    def warmup_lr(self) -> list[float]:
        """Rates during the warm-up, one per parameter group."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        if self.last_epoch >= self.warmup_epoch:
            return self.successor.get_last_lr()
        return self.warmup_lr()

    def step(self, epoch: int | None = None) -> None:
        if self.last_epoch < self.warmup_epoch:
            super().step(epoch)
            return
        self.successor.step(epoch)
        self._last_lr = self.successor.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Plain values only: own fields, and those of the inner schedule under a key of their own."""
        own = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "successor")}
        return {**own, INNER: self.successor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the fields of a state, also of one that holds the inner schedule as an object.

        The live inner schedule and optimizer stay: an unpickled object would drive a copy of the optimizer.

        Raises:
            KeyError: if the state has no inner schedule.
        """
        state = dict(state_dict if isinstance(state_dict, dict) else vars(state_dict))
        old = state.pop("successor", None)
        inner = state.pop(INNER, None if old is None else vars(old))
        if inner is None:
            raise KeyError("the scheduler state has no inner schedule: it was saved without warm-up")
        for scheduler, fields in ((self.successor, inner), (self, state)):
            known = vars(scheduler).keys() - {"optimizer", "successor"}
            vars(scheduler).update({k: v for k, v in fields.items() if k in known})


class ConstantWarmupScheduler(_BaseWarmupScheduler):
    """``cons_lr`` for ``warmup_epoch`` epochs, then ``successor``. ``verbose`` is ignored."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        cons_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self) -> list[float]:
        return [self.cons_lr for _ in self.base_lrs]


class LinearWarmupScheduler(_BaseWarmupScheduler):
    """``min_lr`` in epoch 0, LR * epoch / ``warmup_epoch``, then ``successor``. ``verbose`` is ignored."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: LRScheduler,
        warmup_epoch: int,
        min_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [self.min_lr for _ in self.base_lrs]
        return [float(lr) * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


def _inner(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    name, steps, max_epoch = optim_cfg.LR_SCHEDULER, optim_cfg.STEPSIZE, optim_cfg.MAX_EPOCH
    if name == "cosine":
        return CosineAnnealingLR(optimizer, max_epoch)
    if name == "single_step":
        step = steps[-1] if isinstance(steps, (list, tuple)) else steps
        if not isinstance(step, int):
            raise TypeError(f"OPTIM.STEPSIZE for single_step must end in an int, got {steps!r}")
        return StepLR(optimizer, step_size=step if step > 0 else max_epoch, gamma=optim_cfg.GAMMA)
    if name == "multi_step":
        if not isinstance(steps, (list, tuple)):
            raise TypeError(f"OPTIM.STEPSIZE for multi_step must be a list, got {steps!r}")
        return MultiStepLR(optimizer, milestones=list(steps), gamma=optim_cfg.GAMMA)
    raise ValueError(f"scheduler {name!r} is not one of {AVAI_SCHEDS}")


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> LRScheduler:
    """Make the schedule named by ``optim_cfg.LR_SCHEDULER``, behind a warm-up if ``WARMUP_EPOCH`` > 0.

    The inner schedule starts after the warm-up, so its last ``WARMUP_EPOCH`` values are not reached.

    Raises:
        ValueError: for an unknown schedule or warm-up type.
        TypeError: for a STEPSIZE of the wrong type.
    """
    scheduler = _inner(optimizer, optim_cfg)
    epochs = optim_cfg.WARMUP_EPOCH
    if epochs <= 0:
        return scheduler
    if not optim_cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = epochs
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, epochs, optim_cfg.WARMUP_CONS_LR)
    if optim_cfg.WARMUP_TYPE == "linear":
        return LinearWarmupScheduler(optimizer, scheduler, epochs, optim_cfg.WARMUP_MIN_LR)
    raise ValueError(f"OPTIM.WARMUP_TYPE {optim_cfg.WARMUP_TYPE!r} is not one of ['constant', 'linear']")
