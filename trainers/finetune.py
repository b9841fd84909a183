"""What adversarial training of CLIP's image encoder has in common: the opposite of AdvPT, which never touches it.

The classifier is 100 cos(E(x), T) with the text features of the hand-written prompt frozen (TeCoA's form, Mao et al.,
ICLR 2023); all parameters of the image tower are trained, in float32. Methods say how images are attacked and which
loss they get. Evaluation makes its attacks anew on the tuned encoder: its hash is in the key of every bank. So here a
``transfer`` attacker, who knows both encoders, knows all there is. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advpt.attacks import parse
from advpt.attacks.base import Attack
from advpt.attacks.spec import AttackSpec, parse_training
from advpt.backbones.card import JSON
from advpt.evaluation.saved_run import IMAGE_ENCODER, load_image_encoder
from advpt.files import write_json
from advpt.prompts import exchange
from advpt.settings import Settings, setting
from trainers.advpt import GradientTrainer, build_optim, to_pixels


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
        parse_training(self.settings.from_cfg(cfg).attack, f"{self.settings.node}.ATTACK")

    def build_model(self) -> None:
        super().build_model()
        self.attack_spec = parse(self.options.attack)
        self.attack = self.attack_spec.build()
        self.image_encoder = self.backbone.require_image().requires_grad_(True)
        self.optim, self.sched = build_optim(self.image_encoder, self.cfg.OPTIM)
        self.register_model(IMAGE_ENCODER, self.image_encoder, self.optim, self.sched)

    # --- training -----------------------------------------------------------------------------------------------

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
        """The method's loss, a scalar; gradients for the parameters of the encoder."""
        raise NotImplementedError

    def forward_backward(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        images, labels = self.parse_batch_test(batch)
        pixels = to_pixels(images, self.cfg)
        loss = self.loss(pixels, self.perturb(pixels, labels, self.batch_seed()), labels)
        self.model_backward_and_update(loss)
        self.end_batch()
        return {"loss": loss.item()}

    def training_facts(self) -> dict[str, Any]:
        return {"attack": str(self.attack_spec), "images": len(self.dm.dataset.train_x)}

    # --- evaluation ---------------------------------------------------------------------------------------------

    def use_encoder_as_it_is(self) -> None:
        """Evaluate a frozen copy with a hash of its own, so that no other run has its banks."""
        self.bank_cache = self.bank_cache.with_backbone(self.backbone.copy())

    def point(self) -> dict[str, Any]:
        self.use_encoder_as_it_is()
        return super().point()

    def test(self, split: str | None = None) -> float:
        self.use_encoder_as_it_is()
        return super().test(split)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save_model(self, epoch: int, directory: str, *args: Any, **kwargs: Any) -> None:
        """The latest checkpoint only: with the optimizer's state each is three times the encoder."""
        super().save_model(epoch, directory, *args, **kwargs)
        write_json(Path(directory, IMAGE_ENCODER, exchange.ABOUT), self.about())
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

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        if not directory:
            self.stay_untrained()
            return
        path = exchange.checkpoint_file(Path(directory, IMAGE_ENCODER), epoch)
        about = self.require_fit(path)
        saved = load_image_encoder(path, self.backbone)
        self.loaded = {"epoch": saved.get("epoch")} | self.tuned_elsewhere(about)
        print(f'Loading weights to {IMAGE_ENCODER} from "{path}" (epoch = {saved.get("epoch")})')
