"""CoOp (Zhou et al., IJCV 2022): the same learnable context, tuned on clean images.

By default on augmented images as in CoOp's code; with ``TRAINER.COOP.CLEAN_BANK True`` on a bank of clean centre
crops, so that AdvPT and CoOp differ in the attack alone. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

from advpt.bank.cost import timed
from trainers.advpt import PromptTrainer, bank_loader


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    node = "COOP"

    def prepare_training(self):
        if self.cfg.TRAINER.COOP.CLEAN_BANK:
            images = self.bank_images()
            folder = self.bank_cache.folder(self.bank_cache.spec(images, None, None, 0))
            bank, self.input_seconds = timed(self.bank_cache, folder, lambda: self.bank_cache.get(images))
            self.train_loader_x = bank_loader(bank, self.cfg, self.seed)
            self.backbone.release_image_encoder()

    def embed_batch(self, batch):
        if self.cfg.TRAINER.COOP.CLEAN_BANK:
            return super().embed_batch(batch)
        return self.embed_images(batch)
