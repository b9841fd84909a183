"""TAME (arXiv 2605.17577): TAPT's tuning at test time, of prompts that a router mixes from experts.

For evaluation only: ``--eval-only --model-dir RUN``, where RUN is one of AdvIVLPMoE (for TAMEVLI) or AdvVPTMoE (TAMEV),
and ``TRAINER.TAME.CLEAN_RUN`` its twin with ``LOSS clean``. Builds on its neighbour ``trainers/tapt.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from dassl.engine import TRAINER_REGISTRY

from advpt.settings import FROM_0, ContextSettings, MixtureContext, register, setting
from advpt.tuning.tame import ALIGN_WEIGHT, PARTS, TAME
from advpt.tuning.test_time import TuningConfig
from trainers.tapt import Profile, TAPTSettings, TestTimeTrainer

SOUND = Profile(blocks="first-six", align_weight="blocks", align_total=ALIGN_WEIGHT, variance="biased")
PROFILES = {"sound": SOUND, "released": dataclasses.replace(SOUND, crops="random", precision="amp", source="file")}


@register("TRAINER.TAME")
class TAMESettings(MixtureContext, TAPTSettings):
    """Settings of both designs; "", () and -1 leave a value to the profile."""

    profiles: ClassVar[Mapping[str, Profile]] = PROFILES

    profile: str = setting("sound", "values of what is left open: sound, or as the released code has them",
                           allowed=tuple(PROFILES))  # fmt: skip
    views: int = 256
    lr: float = 5e-3
    alpha: float = 0.575
    decay: float = setting(5e-4, "weight decay of the tuning", allowed=FROM_0)
    freeze: tuple[str, ...] = setting((), "parts of the mixtures that stay as they are", allowed=PARTS)

    def tuning(self, context: ContextSettings, layers: int | None) -> TuningConfig:
        return dataclasses.replace(super().tuning(context, layers), decay=self.decay, frozen=self.freeze)


class MixtureTestTimeTrainer(TestTimeTrainer):
    settings, defense = TAMESettings, TAME
    options: TAMESettings


@TRAINER_REGISTRY.register()
class TAMEV(MixtureTestTimeTrainer):
    layout, trained_by = "visual", "AdvVPTMoE"


@TRAINER_REGISTRY.register()
class TAMEVLI(MixtureTestTimeTrainer):
    layout, trained_by = "independent", "AdvIVLPMoE"
