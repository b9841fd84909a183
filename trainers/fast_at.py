"""Fast adversarial training of CLIP's image encoder (Wong et al., ICLR 2020): one step of 1.25 eps from a random start.
AdvPT's fast rival in Figure 5.

Where the accuracy under PGD-5 of a training batch falls by more than 20 points from one epoch to the next (catastrophic
overfitting), a warning says so; nothing is stopped or taken back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt.attacks import parse
from advpt.settings import register
from trainers.advpt import to_pixels
from trainers.finetune import EncoderSettings, EncoderTrainer

log = logging.getLogger(__name__)
FALL_POINTS = 20.0  # of accuracy, from one epoch to the next


@register("TRAINER.FASTAT", in_v1=True)
class FastATSettings(EncoderSettings):
    attack: str = "pgd1-ce@8/a10"


@TRAINER_REGISTRY.register()
class FastAT(EncoderTrainer):
    settings = FastATSettings
    before: float | None = None  # accuracy under PGD-5 after the epoch before
    last_batch: Mapping[str, Tensor]

    def forward_backward(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        self.last_batch = batch
        return super().forward_backward(batch)

    def after_epoch(self) -> None:
        images, labels = self.parse_batch_test(self.last_batch)
        pixels, attack = to_pixels(images, self.cfg), parse(f"pgd5-ce@{self.attack_spec.eps:g}").build()
        with torch.no_grad():
            right = self.logits(self.perturb(pixels, labels, self.seed, attack)).argmax(1) == labels
        now = 100 * float(right.float().mean())
        if self.before is not None and now < self.before - FALL_POINTS:
            log.warning(
                "accuracy under PGD-5 of a training batch fell from %.0f to %.0f %% in epoch %d: catastrophic "
                "overfitting; lower OPTIM.LR or the step of TRAINER.FASTAT.ATTACK",
                self.before, now, self.epoch + 1,
            )  # fmt: skip
        self.before = now
        super().after_epoch()
