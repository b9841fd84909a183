"""What tuning prompts on attacked pixels has in common: APT, FAP, CAPT and the multimodal designs.

Each step attacks a batch through the prompts as they are, then takes one gradient step on the method's loss. Text
features do not depend on the image: they are computed once per step, with their graph for the loss and detached for
the attack. Methods say which layout, who is attacked, and which loss. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt import losses
from advpt.attacks import parse
from advpt.attacks.base import Attack, Forward
from advpt.attacks.spec import AttackSpec
from advpt.backbones.backbone import ImageEncoder
from advpt.backbones.precision import half_precision
from advpt.detectors import CLEAN_CE, CONSISTENCY
from advpt.errors import ConfigError
from advpt.prompts.classifier import Classifier
from advpt.prompts.image_encoder import with_visual_prompts
from advpt.prompts.learner import PromptState
from advpt.settings import TextContext, setting
from trainers.advpt import PromptTrainer, to_pixels


@dataclass(frozen=True)
class Step:
    """One training batch: ``pixels`` and ``attacked [b, 3, h, w]``, ``labels [b]``, the prompts with their graph, and
    ``text [K, L]`` of unit length."""

    pixels: Tensor
    attacked: Tensor
    labels: Tensor
    state: PromptState
    text: Tensor


@dataclass(frozen=True)
class AttackedSettings(TextContext):
    """Settings of a trainer that attacks its training images through the prompts as they are."""

    attack: str = setting("pgd3-ce@4/a2.667", "training attack")


class AttackedTrainer(PromptTrainer):
    """Tunes prompts on attacked pixels; methods say which loss they have."""

    settings: ClassVar[type[AttackedSettings]]
    options: AttackedSettings
    attack_spec: AttackSpec
    attack: Attack
    image_encoder: ImageEncoder

    def check_cfg(self, cfg: Any) -> None:
        super().check_cfg(cfg)
        self.attack_spec = parse(self.options.attack)
        self.attack = attack = self.attack_spec.build()
        if attack.objective.space != "logits" or attack.source_model == "surrogate" or attack.objective.targeted:
            raise ConfigError(
                f"{self.settings.node}.ATTACK is {self.options.attack}; training attacks go through the tuned prompts, "
                "for instance pgd3-ce@4, or pgd2-kl@1 for the KL to the clean prediction"
            )

    def build_prompts(self) -> None:
        super().build_prompts()
        self.image_encoder = self.backbone.require_image()

    def forward_backward(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        images, labels = self.parse_batch_test(batch)
        pixels, state = to_pixels(images, self.cfg), self.current_prompts()
        text = self.text_features(state)
        step = Step(pixels, self.perturb(pixels, labels, state, text.detach()), labels, state, text)
        loss, parts = self.step_loss(step)
        return self.gradient_step(loss, **parts)

    def current_prompts(self) -> PromptState:
        """The prompts as they are, with their graph."""
        return self.prompt_learner()

    def step_loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        """The method's loss (by default the cross-entropy of the attacked images), and values by name for the log."""
        (features,) = self.features(step, step.attacked)
        return F.cross_entropy(self.logits(step, features), step.labels), {}

    def trades_loss(self, step: Step, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        """TRADES on prompts: cross-entropy of the clean images and ``beta`` times a KL to the attacked ones."""
        clean, attacked = (self.logits(step, f) for f in self.features(step, step.pixels, step.attacked))
        loss, parts = losses.trades(clean, attacked, step.labels, beta)
        return loss, {CLEAN_CE: parts["ce"], CONSISTENCY: parts["kl"]}

    def text_features(self, state: PromptState) -> Tensor:
        """``[K, L]`` of unit length; the hand-written prompt's where the layout has no text."""
        if state.text is None:
            return self.zero_shot.features
        with half_precision(self.context.precision, self.device):
            return F.normalize(self.encoder(state.text).float(), dim=-1)

    def features(self, step: Step, *images: Tensor) -> tuple[Tensor, ...]:
        """``[b, L]`` of each batch of images, not normalised, through the visual prompts, in one pass."""
        with half_precision(self.context.precision, self.device):
            features = self.image_encoder.features(torch.cat(images), step.state.visual).float()
        return features.split([len(part) for part in images])

    def logits(self, step: Step, features: Tensor) -> Tensor:
        """``[b, K]`` of features ``[b, L]``."""
        return self.backbone.logit_scale * F.normalize(features, dim=-1) @ step.text.T

    def perturb(self, pixels: Tensor, labels: Tensor, state: PromptState, text: Tensor) -> Tensor:
        """Attacked pixels; float32, and no gradient reaches a prompt."""
        generator = torch.Generator().manual_seed(self.batch_seed())
        return self.attack(self.attacked_model(labels, state, text), pixels, labels, generator).images

    def attacked_model(self, labels: Tensor, state: PromptState, text: Tensor) -> Forward:
        """Pixels to the logits that the training attack looks at: those of the prompts as they are."""
        visual = state.visual.detach() if state.visual is not None else None
        return self.through(Classifier(text, self.backbone.logit_scale, visual=visual))

    def through(self, prompt: Classifier) -> Forward:
        """Pixels to the logits of a prompt."""
        encode = with_visual_prompts(self.image_encoder, prompt.visual)
        return lambda pixels: prompt.logits(encode(pixels))

    def training_facts(self) -> dict[str, Any]:
        return {"attack": str(self.attack_spec), "images": len(self.dm.dataset.train_x)}
