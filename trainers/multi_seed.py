"""Several runs of one method that differ in seed (or shots) alone, tuned in one batched forward.

The prompts of all runs are rows of one batch of the text encoder; everything else (batches, losses, optimizers,
schedules, checkpoints, records) is each run's own, as if it were alone. Losses agree with those of running alone to
rounding. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from advpt.backbones.precision import half_precision
from advpt.errors import ConfigError
from advpt.tuning.loader import BankLoader
from advpt.tuning.rolling import require_finite
from trainers.advpt import PromptTrainer


def train_batched(trainers: Sequence[PromptTrainer], finish: Callable[[PromptTrainer], None]) -> None:
    """Train all, then ``finish`` (evaluate, say) one after the other. A run that is behind goes on alone until the
    others join.

    Raises:
        ConfigError: a method that does not tune text prompts on a bank, or runs that are too different.
    """
    first = trainers[0]
    for trainer in trainers:
        check(trainer, first)
        trainer.batched_seeds = tuple(t.cfg.SEED for t in trainers)
        trainer.before_train()
        if not isinstance(trainer.train_loader_x, BankLoader):
            clean_bank = hasattr(trainer.options, "clean_bank")
            raise ConfigError(
                f"{trainer.cfg.TRAINER.NAME} reads images while it trains, so its seeds cannot be tuned together; run "
                "them one by one with --seed"
                + (f", or set {trainer.settings.node}.CLEAN_BANK True" if clean_bank else "")
            )
    for trainer in trainers[1:]:  # one copy of the text tower in memory
        trainer.backbone, trainer.encoder = first.backbone, first.encoder
        trainer.bank_cache = dataclasses.replace(trainer.bank_cache, backbone=first.backbone)
    for epoch in range(min(t.start_epoch for t in trainers), first.max_epoch):
        present = [t for t in trainers if t.start_epoch <= epoch]
        for trainer in present:
            trainer.epoch = epoch
            trainer.before_epoch()
        run_epoch(present)
        for trainer in present:
            trainer.after_epoch()
    for trainer in trainers:
        finish(trainer)


def check(trainer: PromptTrainer, first: PromptTrainer) -> None:
    """Refuse what one forward cannot serve."""
    name, kind = trainer.cfg.TRAINER.NAME, type(trainer)
    same_step = issubclass(kind, PromptTrainer) and kind.forward_backward is PromptTrainer.forward_backward
    if not same_step or first.context.layout != "text":
        raise ConfigError(f"{name} cannot tune several seeds together; run them one by one with --seed")
    same = (trainer.context, trainer.classnames, trainer.max_epoch, trainer.backbone.text_digest)
    if same != (first.context, first.classnames, first.max_epoch, first.backbone.text_digest):
        raise ConfigError(f"runs of {name} that are tuned together must differ in seed or shots alone")
    if trainer.context.position != "end":
        raise ConfigError(
            f"CLASS_TOKEN_POSITION is {trainer.context.position!r}; several seeds are tuned together with 'end' only"
        )


def run_epoch(trainers: Sequence[PromptTrainer]) -> None:
    """One epoch of each; a run with fewer batches ends its epoch earlier."""
    with contextlib.ExitStack() as stack:
        epochs = []
        for trainer in trainers:
            trainer.set_model_mode("train")
            trainer.num_batches = len(trainer.train_loader_x)
            epochs.append(stack.enter_context(trainer.rolling.epoch(trainer)))
        for i, batches in enumerate(zip_longest(*(t.train_loader_x for t in trainers))):
            present = [each for each in zip(trainers, epochs, batches) if each[2] is not None]
            for trainer, _, _ in present:
                trainer.batch_idx = i
            losses = backward([t for t, _, _ in present], [batch for _, _, batch in present])
            for (trainer, epoch, _), loss in zip(present, losses):
                if epoch.start(i):
                    require_finite(trainer, gradients=True)
                    trainer.model_update()
                    trainer.end_batch()
                    epoch.finish(i, {"loss": loss})
            report(trainers[0], i, losses)
    for trainer in trainers:
        trainer.progress.add(trainer.rolling.seconds)


def backward(trainers: Sequence[PromptTrainer], batches: Sequence[Mapping[str, Tensor]]) -> list[float]:
    """The gradient of each run's own loss, from one forward over the prompts of all. Returns the losses."""
    first = trainers[0]
    named = [dict(t.prompt_learner.named_parameters()) for t in trainers]
    values = {name: torch.stack([each[name] for each in named]) for name in named[0]}
    with half_precision(first.context.precision, first.device):
        text = first.prompt_features(values)
    losses = [t.loss(batch, part) for t, batch, part in zip(trainers, batches, text)]
    for trainer, loss in zip(trainers, losses):
        trainer.model_zero_grad()
        trainer.detect_anomaly(loss)
    torch.stack(losses).sum().backward()
    return [loss.item() for loss in losses]


def report(first: PromptTrainer, batch: int, losses: Sequence[float]) -> None:
    """A line with the losses of all runs, as often as Dassl prints one."""
    every, total = first.cfg.TRAIN.PRINT_FREQ, first.num_batches
    if (batch + 1) % every == 0 or (total < every and batch + 1 == total):
        shown = " ".join(f"{loss:.4f}" for loss in losses)
        print(f"epoch [{first.epoch + 1}/{first.max_epoch}] batch [{batch + 1}/{total}] losses {shown}")
