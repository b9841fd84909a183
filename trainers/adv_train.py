"""PGD adversarial training of CLIP's image encoder (Madry et al., ICLR 2018), AdvPT's slow rival in Figure 4.

``TRAINER.ADVTRAIN.ATTACK`` is the inner maximisation: ten steps of 2.5 eps / 10 on the cross-entropy by default.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

from advpt import losses
from trainers.finetune import EncoderTrainer


@TRAINER_REGISTRY.register()
class AdvTrain(EncoderTrainer):
    own = "ADVTRAIN"

    def loss(self, pixels, attacked, labels):
        return losses.adversarial_training(self.logits(attacked), labels)
