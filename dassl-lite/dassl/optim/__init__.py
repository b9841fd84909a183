"""Optimizers and learning-rate schedules."""

from dassl.optim.lr_scheduler import build_lr_scheduler
from dassl.optim.optimizer import build_optimizer
