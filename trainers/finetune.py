"""What adversarial training of CLIP's image encoder has in common: the opposite of AdvPT, which never touches it.

The classifier is 100 cos(E(x), T) with the text features of the hand-written prompt frozen (TeCoA's form, Mao et al.,
ICLR 2023); all parameters of the image tower are trained, in float32. Methods say how images are attacked and which
loss they get. Evaluation makes its attacks anew on the tuned encoder: its hash is in the key of every bank. So here a
``transfer`` attacker, who knows both encoders, knows all there is. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from pathlib import Path

import torch
from dassl.engine import TrainerX
from torch import Tensor

from advpt.attacks import parse
from advpt.attacks.spec import parse_training
from advpt.backbones.clip import Backbone
from advpt.errors import WeightsError
from advpt.files import load_checkpoint, write_json
from advpt.prompts import exchange
from trainers.advpt import PromptTrainer, build_optim, to_pixels

log = logging.getLogger(__name__)
MODEL_NAME = "image_encoder"  # the checkpoint folder


class EncoderTrainer(PromptTrainer):
    def check_cfg(self, cfg):
        super().check_cfg(cfg)
        parse_training(cfg.TRAINER[self.own].ATTACK, f"TRAINER.{self.own}.ATTACK")

    def build_prompts(self):
        cfg = self.cfg
        self.seed = cfg.SEED if cfg.SEED >= 0 else torch.seed() % 2**31
        self.spec = parse(cfg.TRAINER[self.own].ATTACK)
        self.attack = self.spec.build()
        self.image_encoder = self.backbone.require_image().requires_grad_(True)
        self.optim, self.sched = build_optim(self.image_encoder, cfg.OPTIM)
        self.register_model(MODEL_NAME, self.image_encoder, self.optim, self.sched)

    def classifier(self):
        return self.zero_shot

    # --- training -----------------------------------------------------------------------------------------------

    def logits(self, pixels: Tensor) -> Tensor:
        """``[b, K]`` of the hand-written prompts, differentiable in pixels and encoder."""
        return self.zero_shot.logits(self.image_encoder(pixels))

    def perturb(self, pixels: Tensor, labels: Tensor, seed: int, attack=None) -> Tensor:
        """Attacked pixels; the encoder is frozen and in evaluation mode meanwhile."""
        attack, encoder = attack or self.attack, self.image_encoder
        training = encoder.training
        encoder.eval().requires_grad_(False)
        forward = self.logits if attack.objective.space == "logits" else encoder
        found = attack(forward, pixels, labels, torch.Generator().manual_seed(seed)).images
        encoder.train(training).requires_grad_(True)
        return found

    def loss(self, pixels: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        """The method's loss, a scalar; gradients for the parameters of the encoder."""
        raise NotImplementedError

    def forward_backward(self, batch):
        images, labels = self.parse_batch_test(batch)
        pixels = to_pixels(images, self.cfg)
        loss = self.loss(pixels, self.perturb(pixels, labels, self.batch_seed()), labels)
        self.model_backward_and_update(loss)
        self.end_batch()
        return {"loss": loss.item()}

    def training_facts(self):
        return {"attack": str(self.spec), "images": len(self.dm.dataset.train_x)}

    # --- evaluation ---------------------------------------------------------------------------------------------

    def use_encoder_as_it_is(self):
        """Evaluate a frozen copy with a hash of its own, so that its banks are nobody else's."""
        frozen = Backbone(self.backbone.name, copy.deepcopy(self.backbone.model), self.device)
        self.bank_cache = dataclasses.replace(self.bank_cache, backbone=frozen, load=lambda: frozen, _open={})

    def point(self):
        self.use_encoder_as_it_is()
        return super().point()

    def test(self, split=None):
        self.use_encoder_as_it_is()
        return super().test(split)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save_model(self, epoch, directory, *args, **kwargs):
        """The latest checkpoint only: with the optimizer's state each is three times the encoder."""
        TrainerX.save_model(self, epoch, directory, *args, **kwargs)
        write_json(Path(directory, MODEL_NAME, exchange.ABOUT), self.about())
        for path in Path(directory, MODEL_NAME).glob("model.pth.tar-*"):
            if path.name != f"model.pth.tar-{epoch + 1}":
                path.unlink()

    def clip_facts(self):
        """The image tower is what was tuned: the text tower alone says on which CLIP."""
        return {"name": self.backbone.name, "text": self.backbone.text_digest}

    def require_fit(self, path):
        about = exchange.about(path)
        exchange.require_towers(about, str(path), self.backbone, ("text",))
        self.compare_templates(about)
        return about

    def load_model(self, directory, epoch=None):
        if not directory:
            self.stay_untrained()
            return
        path = exchange.checkpoint_file(Path(directory, MODEL_NAME), epoch)
        saved, about = load_checkpoint(path), self.require_fit(path)
        try:
            self.image_encoder.load_state_dict(saved["state_dict"])
        except (RuntimeError, TypeError, AttributeError) as error:
            first = str(error).splitlines()[0]
            raise WeightsError(f"{path} does not hold the image tower of {self.backbone.name}: {first}") from error
        self.loaded = {"epoch": saved.get("epoch")} | self.tuned_elsewhere(about)
        print(f'Loading weights to {MODEL_NAME} from "{path}" (epoch = {saved.get("epoch")})')
