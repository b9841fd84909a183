"""Trainers whose prompts lie in several layers, with the settings of a short run, and one of them built."""

from __future__ import annotations

import torch
from dassl.engine import TRAINER_REGISTRY

from advpt.backbones.clip import Architecture
from tests.helpers.trainers import registered_trainers
from trainers.attacked import AttackedTrainer

DEEP = Architecture(32, 16, 3, 64, 8, 77, 49408, 64, 3)
PEERS = tuple(registered_trainers(AttackedTrainer))
CLEAN = "CoCoOp"  # tuned on images as they are
SHORT = ("OPTIM.MAX_EPOCH", "2", "OPTIM.WARMUP_EPOCH", "-1", "INPUT.TRANSFORMS", "('normalize',)")


def settings(trainer: str, *more: str) -> tuple[str, ...]:
    """The words of a short run: prompts in three layers where it has deep ones, and a quick training attack."""
    node, words = TRAINER_REGISTRY.get(trainer).settings, []
    for leaf in node.declared():
        if leaf.name in ("DEPTH_TEXT", "DEPTH_VISION"):
            words += [f"{node.node}.{leaf.name}", "3"]
        if leaf.name == "ATTACK":
            words += [f"{node.node}.ATTACK", "pgd2-kl@4/a2" if "-kl@" in leaf.default else "pgd2-ce@4/a2"]
    return (*SHORT, *words, *more)


def make(workspace, trainer, *more, seed=1):
    from dassl.engine import build_trainer

    import datasets  # noqa: F401
    import train
    import trainers  # noqa: F401

    torch.manual_seed(0)
    args = train.parse_args(workspace.argv(*settings(trainer, *more), trainer=trainer, seed=seed))
    made = build_trainer(train.setup_cfg(args))
    made.epoch, made.batch_idx, made.num_batches = 0, 0, 10
    return made
