"""Multimodal adversarial prompt tuning, the training stage of TAPT (Wang et al., CVPR 2025): three designs, one loss.

AdvVPT has deep prompts in the image (TAPT's V), AdvIVLP independent ones in both towers (VLI), AdvMaPLe visual ones
made of the text's (VLJ). ``LOSS`` of their nodes is ``adv_half`` (one cross-entropy over a batch whose first half is
clean and whose second half is attacked), ``adv_full``, ``clean``, or ``trades`` with weight ``BETA``. Builds on
``trainers/attacked.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt import losses
from advpt.detectors import CLEAN_CE, CONSISTENCY
from advpt.prompts.learner import PromptState
from advpt.settings import FROM_0, DeepContext, register, setting
from trainers.attacked import AttackedSettings, AttackedTrainer, Step


@dataclass(frozen=True)
class MultimodalSettings(DeepContext, AttackedSettings):
    attack: str = "pgd2-ce@1/a1"
    loss: str = setting("adv_half", "clean and attacked images in the loss",
                        allowed=("adv_half", "adv_full", "clean", "trades"))  # fmt: skip
    beta: float = setting(1.0, "weight of the KL of LOSS trades", allowed=FROM_0)


@register("TRAINER.ADVVPT", in_v1=True)
@dataclass(frozen=True)
class AdvVPTSettings(MultimodalSettings):
    pass


@register("TRAINER.ADVIVLP", in_v1=True)
@dataclass(frozen=True)
class AdvIVLPSettings(MultimodalSettings):
    pass


@register("TRAINER.ADVMAPLE", in_v1=True)
@dataclass(frozen=True)
class AdvMaPLeSettings(MultimodalSettings):
    pass


class MultimodalTrainer(AttackedTrainer):
    settings: ClassVar[type[MultimodalSettings]]
    shares_test_banks = False
    options: MultimodalSettings

    def perturb(self, pixels: Tensor, labels: Tensor, state: PromptState, text: Tensor) -> Tensor:
        clean = {"adv_half": len(pixels) // 2, "clean": len(pixels)}.get(self.options.loss, 0)
        if clean == len(pixels):
            return pixels
        attacked = super().perturb(pixels[clean:], labels[clean:], state, text)
        return torch.cat([pixels[:clean], attacked])

    def step_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        if self.options.loss != "trades":
            (features,) = self.features(step, step.attacked)
            return F.cross_entropy(self.logits(step, features), step.labels), {}
        clean, attacked = (self.logits(step, f) for f in self.features(step, step.pixels, step.attacked))
        loss, parts = losses.trades(clean, attacked, step.labels, self.options.beta)
        return loss, {CLEAN_CE: parts["ce"], CONSISTENCY: parts["kl"]}


@TRAINER_REGISTRY.register()
class AdvVPT(MultimodalTrainer):
    settings, layout = AdvVPTSettings, "visual"


@TRAINER_REGISTRY.register()
class AdvIVLP(MultimodalTrainer):
    settings, layout = AdvIVLPSettings, "independent"


@TRAINER_REGISTRY.register()
class AdvMaPLe(MultimodalTrainer):
    settings, layout = AdvMaPLeSettings, "t2v"
