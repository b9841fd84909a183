"""What adversarial training of CLIP's image encoder has in common: the opposite of AdvPT, which never touches it.

The classifier is 100 cos(E(x), T) with the text features of the hand-written prompt frozen (TeCoA's form, Mao et al.,
ICLR 2023); all parameters of the image tower are trained, in float32. Evaluation makes its attacks anew on the tuned
encoder: its hash is in the key of every bank. So here a ``transfer`` attacker, who knows both encoders, knows all there
is. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advpt.attacks.base import Attack
from advpt.attacks.spec import AttackSpec, parse_training
from advpt.backbones.card import JSON
from advpt.evaluation.record import CurvePoint
from advpt.evaluation.saved_run import IMAGE_ENCODER, load_image_encoder
from advpt.prompts import exchange
from advpt.settings import Settings, setting
from trainers.advpt import GradientTrainer, to_pixels


@dataclass(frozen=True)
class EncoderSettings(Settings):
    attack: str = setting("pgd10-ce@8", "training attack")


class EncoderTrainer(GradientTrainer):
    """Trains the image encoder on attacked images; methods have their loss and their attack."""

    settings: ClassVar[type[EncoderSettings]]
    shares_test_banks, trains_encoder = False, True

    options: EncoderSettings
    attack_spec: AttackSpec
    attack: Attack
    image_encoder: nn.Module

    def check_cfg(self, cfg: Any) -> None:
        super().check_cfg(cfg)
        self.attack_spec = parse_training(self.options.attack, f"{self.settings.node}.ATTACK")
        self.attack = self.attack_spec.build()

    def build_model(self) -> None:
        super().build_model()
        self.image_encoder = self.backbone.require_image().requires_grad_(True)
        self.register_trained(IMAGE_ENCODER, self.image_encoder)

    def logits(self, pixels: Tensor) -> Tensor:
        """``[b, K]`` of the hand-written prompts, differentiable in pixels and encoder."""
        return self.zero_shot.logits(self.image_encoder(pixels))

    def perturb(self, pixels: Tensor, labels: Tensor, seed: int, attack: Attack | None = None) -> Tensor:
        """Attacked pixels; the encoder is frozen and in evaluation mode meanwhile."""
        attack, encoder = attack or self.attack, self.image_encoder
        training = encoder.training
        encoder.eval().requires_grad_(False)
        forward = self.logits if attack.objective.space == "logits" else encoder
        attacked = attack(forward, pixels, labels, torch.Generator().manual_seed(seed)).images
        encoder.train(training).requires_grad_(True)
        return attacked

    def loss(self, pixels: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        """The method's loss, a scalar: by default the cross-entropy of the attacked images."""
        return F.cross_entropy(self.logits(attacked), labels)

    def forward_backward(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        images, labels = self.parse_batch_test(batch)
        pixels = to_pixels(images, self.cfg)
        attacked = self.perturb(pixels, labels, self.batch_seed())
        return self.gradient_step(self.loss(pixels, attacked, labels))

    def training_facts(self) -> dict[str, Any]:
        return {"attack": str(self.attack_spec), "images": len(self.dm.dataset.train_x)}

    def use_encoder_as_it_is(self) -> None:
        """Evaluate a frozen copy with a hash of its own, so that no other run has its banks."""
        self.bank_cache = self.bank_cache.with_backbone(self.backbone.copy())

    def point(self) -> CurvePoint:
        self.use_encoder_as_it_is()
        return super().point()

    def test(self, split: str | None = None) -> float:
        self.use_encoder_as_it_is()
        return super().test(split)

    def save_model(self, epoch: int, directory: str, *args: Any, **kwargs: Any) -> None:
        """The latest checkpoint only: with the optimizer's state each is three times the encoder."""
        super().save_model(epoch, directory, *args, **kwargs)
        for path in Path(directory, IMAGE_ENCODER).glob("model.pth.tar-*"):
            if path.name != f"model.pth.tar-{epoch + 1}":
                path.unlink()

    def backbone_facts(self) -> dict[str, JSON]:
        """The image tower is what was tuned: the text tower alone says on which CLIP."""
        return {"name": self.backbone.name, "text": self.backbone.text_digest}

    def require_fit(self, path: Path) -> dict[str, Any]:
        about = exchange.about(path)
        exchange.require_towers(about, str(path), self.backbone, ("text",))
        self.compare_templates(about)
        return about

    def load_weights(self, path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        return {"epoch": load_image_encoder(path, self.backbone)}
