"""FAP (Zhou et al., NeurIPS 2024): prompts in both towers, the text's deeper ones made of the image's.

Cross-entropy of clean images and a KL to the attacked ones, weighted by how close their features are. The training
attack maximises the KL. ``TRAINER.FAP.LAYOUT`` is ``v2t`` (the paper) or ``t2v``, with which the paper saw collapse.
Builds on ``trainers/attacked.py``.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt import losses
from advpt.detectors import CLEAN_CE, CONSISTENCY
from advpt.settings import FROM_0, LayoutContext, register, setting
from trainers.attacked import AttackedSettings, AttackedTrainer, Step


@register("TRAINER.FAP", in_v1=True)
class FAPSettings(LayoutContext, AttackedSettings):
    layout: str = "v2t"
    attack: str = "pgd2-kl@1/a1"
    weight: float = setting(1.5, "weight of the KL", leaf="LAMBDA", allowed=FROM_0)


@TRAINER_REGISTRY.register()
class FAP(AttackedTrainer):
    settings, shares_test_banks = FAPSettings, False
    options: FAPSettings

    def step_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        clean, attacked = self.features(step, step.pixels, step.attacked)
        loss, parts = losses.fap(
            self.logits(step, clean),
            self.logits(step, attacked),
            clean,
            attacked,
            step.labels,
            self.options.weight,
        )
        return loss, {CLEAN_CE: parts["ce"], CONSISTENCY: parts["kl"]}
