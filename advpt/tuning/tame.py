"""TAME at test time (arXiv 2605.17577): TAPT's tuning, of prompts that a router mixes from experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from advpt.tuning.tapt import TAPT
from advpt.tuning.test_time import TuningConfig

PARTS = ("experts", "base", "gate", "tau", "alpha")  # of a mixture, that may stay as they are
BLOCKS, ALIGN_WEIGHT = 6, 13.25  # blocks whose inputs are aligned, and the weight of the mean over them


class TAME(TAPT):
    """Tunes input prompts, experts, bases, gates, temperatures and residual scales on each image."""

    name: ClassVar[str] = "tame"
    summary: ClassVar[str] = "tunes mixtures of prompts and their routers on each image: as tapt, of more views"
    profiles: ClassVar[Mapping[str, Any]] = {
        "sound": TuningConfig(
            views=256,
            lr=5e-3,
            decay=5e-4,
            alpha=0.575,
            align_weight=ALIGN_WEIGHT / BLOCKS,
            blocks=tuple(range(BLOCKS)),
            variance="biased",
        )
    }
