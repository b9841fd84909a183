"""Multimodal adversarial prompt tuning, the training stage of TAPT (Wang et al., CVPR 2025): three designs, one loss.

AdvVPT has deep prompts in the image (TAPT's V), AdvIVLP independent ones in both towers (VLI), AdvMaPLe visual ones
made of the text's (VLJ). ``LOSS adv_half`` is one cross-entropy over a batch whose first half is clean and whose second
half is attacked. Builds on ``trainers/attacked.py``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt.prompts.learner import PromptState
from advpt.settings import FROM_0, DeepContext, register, setting
from trainers.attacked import AttackedSettings, AttackedTrainer, Step


@register("TRAINER.ADVVPT", in_v1=True)
class AdvVPTSettings(DeepContext, AttackedSettings):
    attack: str = "pgd2-ce@1/a1"
    loss: str = setting("adv_half", "clean and attacked images in the loss",
                        allowed=("adv_half", "adv_full", "clean", "trades"))  # fmt: skip
    beta: float = setting(1.0, "weight of the KL of LOSS trades", allowed=FROM_0)


@register("TRAINER.ADVIVLP", in_v1=True)
class AdvIVLPSettings(AdvVPTSettings):
    """The same in a node of its own."""


@register("TRAINER.ADVMAPLE", in_v1=True)
class AdvMaPLeSettings(AdvVPTSettings):
    """The same in a node of its own."""


class MultimodalTrainer(AttackedTrainer):
    settings: ClassVar[type[AdvVPTSettings]] = AdvVPTSettings
    shares_test_banks = False
    options: AdvVPTSettings

    def perturb(self, pixels: Tensor, labels: Tensor, state: PromptState, text: Tensor) -> Tensor:
        clean = {"adv_half": len(pixels) // 2, "clean": len(pixels)}.get(self.options.loss, 0)
        if clean == len(pixels):
            return pixels
        attacked = super().perturb(pixels[clean:], labels[clean:], state, text)
        return torch.cat([pixels[:clean], attacked])

    def step_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        if self.options.loss == "trades":
            return self.trades_loss(step, self.options.beta)
        return super().step_loss(step)


@TRAINER_REGISTRY.register()
class AdvVPT(MultimodalTrainer):
    layout = "visual"


@TRAINER_REGISTRY.register()
class AdvIVLP(MultimodalTrainer):
    settings, layout = AdvIVLPSettings, "independent"


@TRAINER_REGISTRY.register()
class AdvMaPLe(MultimodalTrainer):
    settings, layout = AdvMaPLeSettings, "t2v"
