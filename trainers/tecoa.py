"""TeCoA (Mao et al., ICLR 2023): cross-entropy of attacked images to the texts of their classes.

It is the form that AdvTrain has too, which keeps its name for Figure 4 of AdvPT's paper. The authors and FARE's
repository train it in two ways, and each has a recipe: ``mao`` (the default) and ``robustvlm``.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

from advpt.settings import register
from trainers.finetune import EncoderSettings, EncoderTrainer


@register("TRAINER.TECOA")
class TeCoASettings(EncoderSettings):
    attack: str = "pgd2-ce@1/a1"
    warmup_steps: int = 1000


@TRAINER_REGISTRY.register()
class TeCoA(EncoderTrainer):
    settings = TeCoASettings
