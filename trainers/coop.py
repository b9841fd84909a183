"""CoOp (Zhou et al., IJCV 2022): the same learnable context, tuned on clean images.

By default on augmented images as in CoOp's code; with ``TRAINER.COOP.CLEAN_BANK True`` on a bank of clean centre
crops, so that AdvPT and CoOp differ in the attack alone. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt.bank.cache import AttackRequest
from advpt.settings import TextContext, register, setting
from trainers.advpt import PromptTrainer


@register("TRAINER.COOP", in_v1=True)
class CoOpSettings(TextContext):
    precision: str = "fp16"
    clean_bank: bool = setting(False, "tune on embeddings of the centre crops instead of augmented images")


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    settings = CoOpSettings
    options: CoOpSettings

    def prepare_training(self) -> None:
        if self.options.clean_bank:
            self.tune_on(AttackRequest(self.bank_images()))

    def embed_batch(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return super().embed_batch(batch) if self.options.clean_bank else self.embed_images(batch)
