"""Trainers whose prompts lie in several layers, with the settings of a short run, and one of them built."""

from __future__ import annotations

import torch

from advpt.backbones.clip import Architecture

DEEP = Architecture(32, 16, 3, 64, 8, 77, 49408, 64, 3)
PEERS = ("APT", "FAP", "CAPT", "TradesPT", "AdvVPT", "AdvIVLP", "AdvMaPLe")
CLEAN = "CoCoOp"  # tuned on images as they are
SHORT = ("OPTIM.MAX_EPOCH", "2", "OPTIM.WARMUP_EPOCH", "-1", "INPUT.TRANSFORMS", "('normalize',)")


def settings(trainer: str, *more: str) -> tuple[str, ...]:
    if trainer == CLEAN:
        return (*SHORT, *more)
    node = f"TRAINER.{trainer.upper()}"
    depths = () if trainer == "APT" else (f"{node}.DEPTH_TEXT", "3", f"{node}.DEPTH_VISION", "3")
    attack = "pgd2-kl@4/a2" if trainer in ("FAP", "TradesPT") else "pgd2-ce@4/a2"
    return (*SHORT, *depths, f"{node}.ATTACK", attack, *more)


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
