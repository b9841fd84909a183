"""Fast adversarial training of CLIP's image encoder (Wong et al., ICLR 2020): one step of 1.25 eps from a random start.
AdvPT's fast rival in Figure 5.

Where the accuracy under PGD-5 of a training batch falls by more than 20 points from one epoch to the next (catastrophic
overfitting), a warning says so; nothing is stopped or taken back.
"""

from __future__ import annotations

import logging

import torch
from dassl.engine import TRAINER_REGISTRY

from advpt import losses
from advpt.attacks import parse
from trainers.advpt import to_pixels
from trainers.finetune import EncoderTrainer

log = logging.getLogger(__name__)
COLLAPSE_POINTS = 20.0  # points


@TRAINER_REGISTRY.register()
class FastAT(EncoderTrainer):
    own = "FASTAT"
    before: float | None = None  # accuracy under PGD-5 after the epoch before

    def loss(self, pixels, attacked, labels):
        return losses.adversarial_training(self.logits(attacked), labels)

    def forward_backward(self, batch):
        self.last_batch = batch
        return super().forward_backward(batch)

    def after_epoch(self):
        images, labels = self.parse_batch_test(self.last_batch)
        pixels, attack = to_pixels(images, self.cfg), parse(f"pgd5-ce@{self.spec.eps:g}").build()
        with torch.no_grad():
            right = self.logits(self.perturb(pixels, labels, self.seed, attack)).argmax(1) == labels
        now = 100 * float(right.float().mean())
        if self.before is not None and now < self.before - COLLAPSE_POINTS:
            log.warning(
                "accuracy under PGD-5 of a training batch fell from %.0f to %.0f %% in epoch %d: catastrophic "
                "overfitting; lower OPTIM.LR or the step of TRAINER.FASTAT.ATTACK",
                self.before,
                now,
                self.epoch + 1,
            )
        self.before = now
        super().after_epoch()
