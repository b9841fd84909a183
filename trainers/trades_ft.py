"""TRADES on CLIP's image encoder (Zhang et al., ICML 2019): cross-entropy of clean images and a KL to attacked ones.

The inner maximisation is on the KL of class probabilities, from a Gaussian start of 0.001, ten steps of 0.003 in a ball
of 0.031, as in the authors' code (AdvPT's paper has no such rival); ``TRAINER.TRADESFT.BETA`` weighs the KL.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

from advpt import losses
from trainers.finetune import EncoderTrainer


@TRAINER_REGISTRY.register()
class TradesFT(EncoderTrainer):
    own = "TRADESFT"

    def loss(self, pixels, attacked, labels):
        beta = self.cfg.TRAINER.TRADESFT.BETA
        return losses.trades(self.logits(pixels), self.logits(attacked), labels, beta)
