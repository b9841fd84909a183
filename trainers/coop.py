"""CoOp (Zhou et al., IJCV 2022): the same learnable context, tuned on clean images.

By default on augmented images as in CoOp's code; with ``TRAINER.COOP.CLEAN_BANK True`` on a bank of clean centre
crops, so that AdvPT and CoOp differ in the attack alone. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt.bank.cache import AttackRequest
from advpt.bank.cost import timed
from advpt.settings import TextContext, register, setting
from trainers.advpt import PromptTrainer, bank_loader


@register("TRAINER.COOP", in_v1=True)
@dataclass(frozen=True)
class CoOpSettings(TextContext):
    precision: str = "fp16"
    clean_bank: bool = setting(False, "tune on embeddings of the centre crops instead of augmented images")


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    settings = CoOpSettings
    options: CoOpSettings

    def prepare_training(self) -> None:
        if self.options.clean_bank:
            bank, self.input_seconds = timed(self.bank_cache, AttackRequest(self.bank_images()))
            self.train_loader_x = bank_loader(bank, self.cfg, self.seed)
            self.backbone.release_image_encoder()

    def embed_batch(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if self.options.clean_bank:
            return super().embed_batch(batch)
        return self.embed_images(batch)
