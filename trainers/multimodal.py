"""Multimodal adversarial prompt tuning, the training stage of TAPT (Wang et al., CVPR 2025): three designs, one loss.

AdvVPT has deep prompts in the image (TAPT's V), AdvIVLP independent ones in both towers (VLI), AdvMaPLe visual ones
made of the text's (VLJ). ``LOSS`` of their nodes is ``adv_half`` (one cross-entropy over a batch whose first half is
clean and whose second half is attacked), ``adv_full``, ``clean``, or ``trades`` with weight ``BETA``. Builds on
``trainers/attacked.py``.
"""

from __future__ import annotations

import torch
from dassl.engine import TRAINER_REGISTRY

from advpt import losses
from advpt.detectors import CLEAN_CE, CONSISTENCY
from advpt.errors import ConfigError, unknown_name
from trainers.attacked import AttackedTrainer

LOSSES = ("adv_half", "adv_full", "clean", "trades")


class MultimodalTrainer(AttackedTrainer):
    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        name = cfg.TRAINER[self.node].LOSS
        if name not in LOSSES:
            raise ConfigError(f"TRAINER.{self.node}.LOSS: {unknown_name('loss', name, LOSSES)}")

    def perturb(self, pixels, labels, state, text):
        clean = {"adv_half": len(pixels) // 2, "clean": len(pixels)}.get(self.settings.LOSS, 0)
        if clean == len(pixels):
            return pixels
        attacked = super().perturb(pixels[clean:], labels[clean:], state, text)
        return torch.cat([pixels[:clean], attacked])

    def step_loss(self, step):
        if self.settings.LOSS != "trades":
            (features,) = self.features(step, step.attacked)
            return losses.adversarial_training(self.logits(step, features), step.labels), {}
        clean, attacked = (self.logits(step, f) for f in self.features(step, step.pixels, step.attacked))
        loss, parts = losses.trades_parts(clean, attacked, step.labels, self.settings.BETA)
        return loss, {CLEAN_CE: parts["ce"], CONSISTENCY: parts["kl"]}


@TRAINER_REGISTRY.register()
class AdvVPT(MultimodalTrainer):
    node, layout = "ADVVPT", "visual"


@TRAINER_REGISTRY.register()
class AdvIVLP(MultimodalTrainer):
    node, layout = "ADVIVLP", "independent"


@TRAINER_REGISTRY.register()
class AdvMaPLe(MultimodalTrainer):
    node, layout = "ADVMAPLE", "t2v"
