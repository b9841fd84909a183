"""Registry of trainers."""

from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> Any:
    """Make the trainer named by ``cfg.TRAINER.NAME``; ValueError if none is registered so."""
    return TRAINER_REGISTRY.build(cfg.TRAINER.NAME, cfg)
