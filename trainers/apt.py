"""APT (Li et al., CVPR 2024): text prompts tuned on images attacked through them; the loss is cross-entropy.

``TRAINER.APT.PROMPT_MODE`` says whom the training attack goes through: ``onfly`` the prompts as they are, ``constant``
the hand-written prompt, ``perturbed`` prompts that take a gradient ascent step (``PERTURB_STEP`` times the gradient)
after each step of the attack, on a copy. Test attacks are never ``perturbed``. Builds on ``trainers/attacked.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY

from advpt import losses
from advpt.errors import ConfigError, unknown_name
from advpt.prompts.classifier import Classifier
from trainers.attacked import AttackedTrainer

MODES = ("onfly", "constant", "perturbed")


@TRAINER_REGISTRY.register()
class APT(AttackedTrainer):
    node = "APT"

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        if cfg.TRAINER.APT.PROMPT_MODE not in MODES:
            raise ConfigError(f"TRAINER.APT.PROMPT_MODE: {unknown_name('mode', cfg.TRAINER.APT.PROMPT_MODE, MODES)}")

    def step_loss(self, step):
        (features,) = self.features(step, step.attacked)
        return losses.adversarial_training(self.logits(step, features), step.labels), {}

    def attacked_model(self, labels, state, text):
        mode = self.settings.PROMPT_MODE
        if mode == "constant":
            return self.through(self.zero_shot)
        if mode == "perturbed":
            return self.moving_prompts(labels)
        return super().attacked_model(labels, state, text)

    def moving_prompts(self, labels):
        """Logits of prompts that ascend their own loss each time the attack asks for a gradient."""
        values = {name: p.detach().clone() for name, p in self.prompt_learner.named_parameters()}
        scale = self.backbone.logit_scale

        def forward(pixels):
            features = self.image_encoder(pixels)
            moving = {name: value.requires_grad_(torch.is_grad_enabled()) for name, value in values.items()}
            text = F.normalize(self.encoder(self.prompt_learner(moving).text), dim=-1)
            if torch.is_grad_enabled():
                loss = F.cross_entropy(Classifier(text, scale).logits(features.detach()), labels)
                for (name, value), up in zip(moving.items(), torch.autograd.grad(loss, list(moving.values()))):
                    values[name] = (value + self.settings.PERTURB_STEP * up).detach()
            return Classifier(text.detach(), scale).logits(features)

        return forward
