"""FAP (Zhou et al., NeurIPS 2024): prompts in both towers, the text's deeper ones made of the image's.

Cross-entropy of clean images and a KL to the attacked ones, weighted by how close their features are. The training
attack maximises the KL. ``TRAINER.FAP.LAYOUT`` is ``v2t`` (the paper) or ``t2v``, with which the paper saw collapse.
Builds on ``trainers/attacked.py``.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

from advpt import losses
from advpt.detectors import CLEAN_CE, CONSISTENCY
from trainers.attacked import AttackedTrainer


@TRAINER_REGISTRY.register()
class FAP(AttackedTrainer):
    node = "FAP"

    def step_loss(self, step):
        clean, attacked = self.features(step, step.pixels, step.attacked)
        loss, parts = losses.fap(
            self.logits(step, clean),
            self.logits(step, attacked),
            clean,
            attacked,
            step.labels,
            self.settings.LAMBDA,
        )
        return loss, {CLEAN_CE: parts["ce"], CONSISTENCY: parts["kl"]}
