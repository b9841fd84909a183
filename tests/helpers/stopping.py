"""A signal to this process in the middle of an epoch."""

from __future__ import annotations

import os
import signal

import pytest

from trainers.advpt import PromptTrainer

SETTINGS = ("OPTIM.MAX_EPOCH", "3", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "EVAL.ATTACKS", "()")


def stop_at(
    patch: pytest.MonkeyPatch,
    epoch: int,
    batch: int,
    number: int = signal.SIGTERM,
    trainer: type[PromptTrainer] = PromptTrainer,
) -> None:
    """The process gets a signal while that batch is computed. ``trainer``: whose own way of computing it is."""
    forward_backward = trainer.forward_backward

    def stopped(self, item):
        if (self.epoch, self.batch_idx) == (epoch, batch):
            os.kill(os.getpid(), number)
        return forward_backward(self, item)

    patch.setattr(trainer, "forward_backward", stopped)
