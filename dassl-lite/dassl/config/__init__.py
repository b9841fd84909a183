"""The configuration tree."""

from yacs.config import CfgNode

from dassl.config.defaults import cfg_default


def get_cfg_default() -> CfgNode:
    """A fresh, unfrozen copy of the default tree."""
    return cfg_default.clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Drop, in place, every node of ``cfg.TRAINER`` but ``NAME`` and the one of ``trainer``."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            del cfg.TRAINER[key]
