"""CAPT (Yang et al., arXiv 2405.11154): consistency of attacked predictions with the tuned and the frozen model.

Public are the paper's abstract and, second-hand, the form of its loss; its code is not. Everything else
is an option of ``TRAINER.CAPT`` with a default of ours: its numbers are not those of the paper. TradesPT is the same
without the frozen model (TRADES on prompts). Builds on ``trainers/attacked.py``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt import losses
from advpt.backbones.backbone import Backbone
from advpt.backbones.load import load_backbone
from advpt.detectors import CLEAN_CE, CONSISTENCY
from advpt.prompts.classifier import Classifier, from_templates
from advpt.settings import FROM_0, SHARE, BackboneSettings, LayoutContext, Range, register, setting
from trainers.attacked import AttackedSettings, AttackedTrainer, Step

RULES = (*losses.ALPHA_RULES, "const", "schedule")


@register("TRAINER.CAPT", in_v1=True)
class CAPTSettings(LayoutContext, AttackedSettings):
    weight: float = setting(1.0, "weight of the consistency terms", leaf="LAMBDA", allowed=FROM_0)
    alpha_rule: str = setting("confidence", "what says how much the frozen model is followed", allowed=RULES)
    alpha_const: float = setting(0.5, "alpha of ALPHA_RULE const", allowed=SHARE)
    alpha_start: float = setting(1.0, "alpha of ALPHA_RULE schedule in the first epoch; linear over the epochs",
                                 allowed=SHARE)  # fmt: skip
    alpha_end: float = setting(0.0, "and in the last", allowed=SHARE)
    kl_direction: str = setting("target_is_reference", "side of the KL that the target is on",
                                allowed=losses.KL_DIRECTIONS)  # fmt: skip
    kl_temperature: float = setting(1.0, "divisor of the logits in the KL", allowed=Range(0, above=True))
    detach_clean: bool = setting(False, "no gradient through the clean predictions of the KL")
    frozen_weights: str = setting("same", "the frozen model: same, openai (by the backbone's name), or a file")
    frozen_template: str = setting("", "hand-written prompt of the frozen model; empty: the data set's")


@register("TRAINER.TRADESPT", in_v1=True)
class TradesPTSettings(LayoutContext, AttackedSettings):
    attack: str = "pgd3-kl@4/a2.667"
    beta: float = setting(1.0, "weight of the KL", allowed=FROM_0)


@TRAINER_REGISTRY.register()
class CAPT(AttackedTrainer):
    settings, shares_test_banks = CAPTSettings, False
    options: CAPTSettings
    frozen: Backbone
    guide: Classifier  # hand-written prompts of the frozen model

    def build_prompts(self) -> None:
        super().build_prompts()
        options = self.options
        self.frozen, encoder = self.backbone, self.encoder
        if options.frozen_weights != "same":
            file = "" if options.frozen_weights == "openai" else options.frozen_weights
            settings = dataclasses.replace(BackboneSettings.from_cfg(self.cfg), weights=file, image_weights="")
            self.frozen = load_backbone(settings, self.device)
            encoder = self.frozen.text
        templates = (options.frozen_template,) if options.frozen_template else self.templates
        self.guide = from_templates(encoder, self.classnames, templates, self.frozen.logit_scale)

    def step_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        clean, attacked = (self.logits(step, f) for f in self.features(step, step.pixels, step.attacked))
        options, (frozen, alpha) = self.options, self.guidance(step, clean)
        loss, parts = losses.capt(
            clean,
            attacked,
            frozen,
            step.labels,
            alpha,
            weight=options.weight,
            direction=options.kl_direction,
            temperature=options.kl_temperature,
            detach_clean=options.detach_clean,
        )
        accuracy = {
            "acc": 100 * (clean.argmax(1) == step.labels).float().mean(),
            "acc_attacked": 100 * (attacked.argmax(1) == step.labels).float().mean(),
        }
        shown = {CLEAN_CE: parts["ce"], CONSISTENCY: parts["kl"], "kl_frozen": parts["kl_frozen"]}
        return loss, shown | {"alpha": parts["alpha"]} | accuracy

    def training_facts(self) -> dict[str, Any]:
        if self.frozen is self.backbone:
            return super().training_facts()
        frozen = {"name": self.frozen.name, "image": self.frozen.image_digest, "text": self.frozen.text_digest}
        return super().training_facts() | {"frozen": frozen}

    @torch.no_grad()
    def guidance(self, step: Step, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[b, K]`` of the frozen model on the clean images, and alpha ``[b]``: how much it is followed."""
        options, epochs = self.options, max(1, self.max_epoch - 1)
        frozen = self.guide.logits(self.frozen.require_image()(step.pixels))
        given = options.alpha_const
        if options.alpha_rule == "schedule":
            given = options.alpha_start + (options.alpha_end - options.alpha_start) * self.epoch / epochs
        return frozen, losses.capt_alpha(options.alpha_rule, clean, frozen, step.labels, given)


@TRAINER_REGISTRY.register()
class TradesPT(AttackedTrainer):
    """CAPT with alpha 0, and so without a frozen model."""

    settings, shares_test_banks = TradesPTSettings, False
    options: TradesPTSettings

    def step_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        return self.trades_loss(step, self.options.beta)
