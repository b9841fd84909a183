"""CoOp (Zhou et al., IJCV 2022): the same learnable context, tuned on clean images.

By default on augmented images as in CoOp's code; with ``TRAINER.COOP.CLEAN_BANK True`` on a bank of the clean centre crops,
so that AdvPT and CoOp differ in the attack alone. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

import torch
from dassl.engine import TRAINER_REGISTRY

from trainers.advpt import PromptTrainer, bank_loader, to_pixels


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    node = "COOP"

    def build_model(self):
        super().build_model()
        if self.cfg.TRAINER.COOP.CLEAN_BANK:
            bank = self.library.get(self.image_set("train").first(self.bank_settings.limit))
            self.train_loader_x = bank_loader(bank, self.cfg, self.seed)
            self.backbone.release_image_encoder()

    def embed_batch(self, batch):
        if self.cfg.TRAINER.COOP.CLEAN_BANK:
            return super().embed_batch(batch)
        images, labels = self.parse_batch_test(batch)
        with torch.no_grad():
            return self.backbone.require_image()(to_pixels(images, self.cfg)), labels
