"""PGD adversarial training of CLIP's image encoder (Madry et al., ICLR 2018), AdvPT's slow rival in Figure 4.

``TRAINER.ADVTRAIN.ATTACK`` is the inner maximisation: ten steps of 2.5 eps / 10 on the cross-entropy by default.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

from advpt.settings import register
from trainers.finetune import EncoderSettings, EncoderTrainer


@register("TRAINER.ADVTRAIN", in_v1=True)
class AdvTrainSettings(EncoderSettings):
    attack: str = "pgd10-ce@8"


@TRAINER_REGISTRY.register()
class AdvTrain(EncoderTrainer):
    settings = AdvTrainSettings
