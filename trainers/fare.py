"""FARE (Schlarmann et al., ICML 2024): the embedding of an attacked image is to stay where the frozen tower puts the
clean one. No text and no label is used, in training or in its attack.
"""

from __future__ import annotations

from typing import Any

from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt import losses
from advpt.errors import ConfigError
from advpt.settings import register
from trainers.finetune import EncoderSettings, EncoderTrainer

NORMS = ("l2", "l1")


@register("TRAINER.FARE")
class FARESettings(EncoderSettings):
    attack: str = "pgd10-l2@4/a1"
    warmup_steps: int = 1400


@TRAINER_REGISTRY.register()
class FARE(EncoderTrainer):
    """The objective of its attack, ``l2`` or ``l1``, is that of its loss."""

    settings, compares = FARESettings, True

    def check_cfg(self, cfg: Any) -> None:
        super().check_cfg(cfg)
        if self.attack_spec.objective not in NORMS:
            raise ConfigError(
                f"{self.settings.node}.ATTACK is {self.options.attack}; FARE's attack and loss are one distance "
                "between embeddings: pgd10-l2@4/a1, or l1 in the place of l2"
            )

    def robust_loss(self, pixels: Tensor, labels: Tensor, seed: int) -> Tensor:
        clean = self.reference(pixels)
        attacked = self.perturb(pixels, labels, seed, self.attack.against(clean))
        return losses.fare(self.image_encoder(attacked), clean, self.attack_spec.objective)
