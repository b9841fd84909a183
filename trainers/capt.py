"""CAPT (Yang et al., arXiv 2405.11154): consistency of attacked predictions with the tuned and the frozen model.

Known of the paper are its abstract and, second-hand, the form of its loss; nobody published its code. Everything else
is an option of ``TRAINER.CAPT`` with a default of ours: its numbers are not those of the paper. TradesPT is the same
without the frozen model (TRADES on prompts). Builds on ``trainers/attacked.py``.
"""

from __future__ import annotations

import dataclasses

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt import losses
from advpt.backbones.clip import load_backbone
from advpt.detectors import CLEAN_CE, CONSISTENCY
from advpt.errors import ConfigError, unknown_name
from advpt.prompts.classifier import from_templates
from advpt.prompts.text_encoder import TextEncoder
from advpt.settings import BackboneSettings
from trainers.attacked import AttackedTrainer, Step

RULES = (*losses.ALPHA_RULES, "const", "schedule")


@TRAINER_REGISTRY.register()
class CAPT(AttackedTrainer):
    node = "CAPT"

    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        node = cfg.TRAINER[self.node]
        for leaf, known in (("ALPHA_RULE", RULES), ("KL_DIRECTION", losses.KL_DIRECTIONS)):
            if node[leaf] not in known:
                raise ConfigError(f"TRAINER.{self.node}.{leaf}: {unknown_name('value', node[leaf], known)}")
        alphas = [node.ALPHA_CONST, node.ALPHA_START, node.ALPHA_END]
        if not all(0 <= alpha <= 1 for alpha in alphas) or node.KL_TEMPERATURE <= 0:
            raise ConfigError(
                f"TRAINER.{self.node}: ALPHA_CONST, ALPHA_START and ALPHA_END are {alphas}, KL_TEMPERATURE is "
                f"{node.KL_TEMPERATURE}; expected numbers in [0, 1], and one above 0"
            )

    def build_prompts(self):
        super().build_prompts()
        cfg, node = self.cfg, self.settings
        self.frozen, encoder = self.backbone, self.encoder
        if node.FROZEN_WEIGHTS != "same":
            file = "" if node.FROZEN_WEIGHTS == "openai" else node.FROZEN_WEIGHTS
            chosen = dataclasses.replace(BackboneSettings.from_cfg(cfg), weights=file, image_weights="")
            self.frozen = load_backbone(chosen, self.device)
            encoder = TextEncoder(self.frozen.model)
        templates = (node.FROZEN_TEMPLATE,) if node.FROZEN_TEMPLATE else self.templates
        self.guide = from_templates(encoder, self.classnames, templates, self.frozen.logit_scale)

    def step_loss(self, step):
        clean, attacked = (self.logits(step, f) for f in self.features(step, step.pixels, step.attacked))
        node, (frozen, alpha) = self.settings, self.guidance(step, clean)
        loss, parts = losses.capt(
            clean,
            attacked,
            frozen,
            step.labels,
            alpha,
            weight=node.LAMBDA,
            direction=node.KL_DIRECTION,
            temperature=node.KL_TEMPERATURE,
            detach_clean=node.DETACH_CLEAN,
        )
        right = {
            "acc": 100 * (clean.argmax(1) == step.labels).float().mean(),
            "acc_attacked": 100 * (attacked.argmax(1) == step.labels).float().mean(),
        }
        said = {CLEAN_CE: parts["ce"], CONSISTENCY: parts["kl"], "kl_frozen": parts["kl_frozen"]}
        return loss, said | {"alpha": parts["alpha"]} | right

    def training_facts(self):
        if self.frozen is self.backbone:
            return super().training_facts()
        frozen = {"name": self.frozen.name, "image": self.frozen.image_digest, "text": self.frozen.text_digest}
        return super().training_facts() | {"frozen": frozen}

    @torch.no_grad()
    def guidance(self, step: Step, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[b, K]`` of the frozen model on the clean images, and alpha ``[b]``: how much it is followed."""
        node, epochs = self.settings, max(1, self.max_epoch - 1)
        frozen = self.guide.logits(self.frozen.require_image()(step.pixels))
        given = node.ALPHA_CONST
        if node.ALPHA_RULE == "schedule":
            given = node.ALPHA_START + (node.ALPHA_END - node.ALPHA_START) * self.epoch / epochs
        return frozen, losses.capt_alpha(node.ALPHA_RULE, clean, frozen, step.labels, given)


@TRAINER_REGISTRY.register()
class TradesPT(AttackedTrainer):
    """CAPT with alpha 0, and so without a frozen model."""

    node = "TRADESPT"

    def step_loss(self, step):
        clean, attacked = (self.logits(step, f) for f in self.features(step, step.pixels, step.attacked))
        loss, parts = losses.trades_parts(clean, attacked, step.labels, self.settings.BETA)
        return loss, {CLEAN_CE: parts["ce"], CONSISTENCY: parts["kl"]}
