"""APT (Li et al., CVPR 2024): text prompts tuned on images attacked through them; the loss is cross-entropy.

``TRAINER.APT.PROMPT_MODE`` says whom the training attack goes through: ``onfly`` the prompts as they are, ``constant``
the hand-written prompt, ``perturbed`` prompts that take a gradient ascent step (``PERTURB_STEP`` times the gradient)
after each step of the attack, on a copy. Test attacks are never ``perturbed``. Builds on ``trainers/attacked.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt.attacks.base import Forward
from advpt.prompts.classifier import Classifier
from advpt.prompts.learner import PromptState
from advpt.settings import FROM_0, register, setting
from trainers.attacked import AttackedSettings, AttackedTrainer


@register("TRAINER.APT", in_v1=True)
class APTSettings(AttackedSettings):
    prompt_mode: str = setting("onfly", "prompts that the training attack goes through",
                               allowed=("onfly", "constant", "perturbed"))  # fmt: skip
    perturb_step: float = setting(0.1, "step of the prompts of PROMPT_MODE perturbed, times the gradient",
                                  allowed=FROM_0)  # fmt: skip


@TRAINER_REGISTRY.register()
class APT(AttackedTrainer):
    settings = APTSettings
    options: APTSettings

    def attacked_model(self, labels: Tensor, state: PromptState, text: Tensor) -> Forward:
        mode = self.options.prompt_mode
        if mode == "constant":
            return self.through(self.zero_shot)
        if mode == "perturbed":
            return self.moving_prompts(labels)
        return super().attacked_model(labels, state, text)

    def moving_prompts(self, labels: Tensor) -> Forward:
        """Logits of prompts that ascend their own loss each time the attack asks for a gradient."""
        values = {name: p.detach().clone() for name, p in self.prompt_learner.named_parameters()}
        scale = self.backbone.logit_scale

        def forward(pixels: Tensor) -> Tensor:
            features = self.image_encoder(pixels)
            moving = {name: value.requires_grad_(torch.is_grad_enabled()) for name, value in values.items()}
            text = F.normalize(self.encoder(self.prompt_learner(moving).text), dim=-1)
            if torch.is_grad_enabled():
                loss = F.cross_entropy(Classifier(text, scale).logits(features.detach()), labels)
                for (name, value), up in zip(moving.items(), torch.autograd.grad(loss, list(moving.values()))):
                    values[name] = (value + self.options.perturb_step * up).detach()
            return Classifier(text.detach(), scale).logits(features)

        return forward
