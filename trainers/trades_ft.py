"""TRADES on CLIP's image encoder (Zhang et al., ICML 2019): cross-entropy of clean images and a KL to attacked ones.

The inner maximisation is on the KL of class probabilities, from a Gaussian start of 0.001, ten steps of 0.003 in a ball
of 0.031, as in the authors' code (AdvPT's paper has no such rival); ``TRAINER.TRADESFT.BETA`` weighs the KL.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt import losses
from advpt.settings import FROM_0, register, setting
from trainers.finetune import EncoderSettings, EncoderTrainer


@register("TRAINER.TRADESFT", in_v1=True)
class TradesFTSettings(EncoderSettings):
    attack: str = "pgd10-kl@7.905/a0.765/gaussian"  # eps 0.031, step 0.003
    beta: float = setting(6.0, "weight of the KL", allowed=FROM_0)


@TRAINER_REGISTRY.register()
class TradesFT(EncoderTrainer):
    settings = TradesFTSettings
    options: TradesFTSettings

    def loss(self, pixels: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        return losses.trades(self.logits(pixels), self.logits(attacked), labels, self.options.beta)[0]
