"""What adversarial training of CLIP's image encoder has in common: the opposite of AdvPT, which never touches it.

The classifier is 100 cos(E(x), T) with the text features of the hand-written prompt frozen (TeCoA's form, Mao et al.,
ICLR 2023); all parameters of the image tower are trained, in float32. Evaluation makes its attacks anew on the tuned
encoder: its hash is in the key of every bank. So here a ``transfer`` attacker, who knows both encoders, knows all there
is; one of ``untuned`` has the encoder as it was before. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.attacks.base import Attack, Forward
from advpt.attacks.spec import AttackSpec, parse_training
from advpt.backbones import tuned_tower
from advpt.backbones.backbone import ImageEncoder
from advpt.backbones.card import JSON, digest_of_tower
from advpt.backbones.load import load_backbone
from advpt.data import catalog
from advpt.errors import WeightsError
from advpt.evaluation.measure import Prompts
from advpt.evaluation.protocols import threats
from advpt.evaluation.record import CurvePoint, TrainingFacts
from advpt.evaluation.saved_run import IMAGE_ENCODER, load_image_encoder
from advpt.evaluation.session import Subject
from advpt.files import write_json
from advpt.prompts import exchange
from advpt.schema import FieldError, from_json, to_json
from advpt.settings import BackboneSettings, Range, Settings, setting
from advpt.tuning.rolling import FILE as ROLLING
from advpt.tuning.schedule import step_schedule
from trainers.advpt import GradientTrainer, to_pixels

log = logging.getLogger(__name__)
WARMUP_SHARE = 10  # where warm-up would take half of all steps, one in so many warms up


@dataclass(frozen=True)
class EncoderSettings(Settings):
    attack: str = setting("pgd10-ce@8", "training attack")
    warmup_steps: int = setting(
        -1,
        "steps of a linear warm-up before a cosine over all steps; -1: OPTIM's schedule, by epochs",
        allowed=Range(-1, whole=True),
        added=True,
    )


class EncoderTrainer(GradientTrainer):
    """Trains the image encoder on attacked images; methods have their loss and their attack, and may compare with
    :attr:`reference`, the encoder as it was before training."""

    settings: ClassVar[type[EncoderSettings]]
    shares_test_banks, trains_encoder = False, True
    compares: ClassVar[bool] = False  # with the frozen reference

    options: EncoderSettings
    attack_spec: AttackSpec
    attack: Attack
    image_encoder: ImageEncoder
    base: tuned_tower.Base  # what training starts from
    reference: ImageEncoder  # frozen, in evaluation mode; in no optimizer and no checkpoint
    warmup_steps: int  # of this run
    trained_with: Mapping[str, Any] | None = None  # facts of the training of a tower that was loaded

    def check_cfg(self, cfg: Any) -> None:
        super().check_cfg(cfg)
        self.attack_spec = parse_training(self.options.attack, f"{self.settings.node}.ATTACK")
        self.attack = self.attack_spec.build()

    def build_model(self) -> None:
        super().build_model()
        self.image_encoder = self.backbone.require_image()
        self.base = tuned_tower.Base.of(self.backbone)
        if self.compares:
            self.reference = copy.deepcopy(self.image_encoder).eval().requires_grad_(False)
        self.image_encoder.requires_grad_(True)
        self.register_trained(IMAGE_ENCODER, self.image_encoder)

    def build_schedule(self, optimizer: Any) -> Any:
        self.warmup_steps = warmup = self.options.warmup_steps
        if warmup < 0:
            return super().build_schedule(optimizer)
        total = self.steps()
        if 2 * warmup >= total:
            self.warmup_steps = total // WARMUP_SHARE
        return step_schedule(optimizer, self.warmup_steps, total)

    def steps(self) -> int:
        """The steps of a whole training."""
        return int(self.cfg.OPTIM.MAX_EPOCH) * len(self.train_loader_x or ())

    def prepare_training(self) -> None:
        super().prepare_training()
        if self.warmup_steps != self.options.warmup_steps:
            log.warning(
                "%s.WARMUP_STEPS is %d, and there are %d steps in all: %d of them warm up",
                self.settings.node, self.options.warmup_steps, self.steps(), self.warmup_steps,
            )  # fmt: skip

    def before_train(self) -> None:
        resumed, own = (Path(run, IMAGE_ENCODER, exchange.ABOUT) for run in (self.cfg.RESUME, self.output_dir))
        continues = any(own.parent.glob("model*.pth.tar*")) or Path(self.output_dir, ROLLING).is_file()
        for path, read in ((resumed, bool(self.cfg.RESUME)), (own, continues)):
            self.require_base(exchange.about(path) if read else {}, path)
        super().before_train()
        if not continues:  # a run may be stopped, and continued, before its first checkpoint
            write_json(own, self.about())

    def set_up_warnings(self) -> list[str]:
        optim, node = self.cfg.OPTIM, self.settings.node
        if self.options.warmup_steps < 0 or (optim.LR_SCHEDULER == "cosine" and optim.WARMUP_EPOCH <= 0):
            return super().set_up_warnings()
        line = (
            f"OPTIM.LR_SCHEDULER {optim.LR_SCHEDULER} and OPTIM.WARMUP_EPOCH {optim.WARMUP_EPOCH} are not read: "
            f"{node}.WARMUP_STEPS {self.options.warmup_steps} is a schedule by steps; {node}.WARMUP_STEPS -1 reads them"
        )
        return [line, *super().set_up_warnings()]

    def end_batch(self) -> None:
        if self.warmup_steps < 0:
            super().end_batch()
        else:
            self.update_lr()

    def logits(self, pixels: Tensor) -> Tensor:
        """``[b, K]`` of the hand-written prompts, differentiable in pixels and encoder."""
        return self.zero_shot.logits(self.image_encoder(pixels))

    def perturb(self, pixels: Tensor, labels: Tensor, seed: int, attack: Attack | None = None) -> Tensor:
        """Attacked pixels; the encoder is frozen and in evaluation mode meanwhile."""
        attack, encoder = attack or self.attack, self.image_encoder
        training = encoder.training
        encoder.eval().requires_grad_(False)
        attacked = attack(self.attacked_model(attack), pixels, labels, torch.Generator().manual_seed(seed)).images
        encoder.train(training).requires_grad_(True)
        return attacked

    def attacked_model(self, attack: Attack) -> Forward:
        """Pixels to what the objective of an attack looks at: logits or embeddings."""
        return self.logits if attack.objective.space == "logits" else self.image_encoder

    def loss(self, pixels: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        """The method's loss, a scalar: by default the cross-entropy of the attacked images."""
        return F.cross_entropy(self.logits(attacked), labels)

    def robust_loss(self, pixels: Tensor, labels: Tensor, seed: int) -> Tensor:
        """What training lowers: the loss of a batch ``[b, 3, h, w]`` that is attacked first, with random numbers of
        ``seed``."""
        return self.loss(pixels, self.perturb(pixels, labels, seed), labels)

    def forward_backward(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        images, labels = self.parse_batch_test(batch)
        return self.gradient_step(self.robust_loss(to_pixels(images, self.cfg), labels, self.batch_seed()))

    def training_facts(self) -> dict[str, Any]:
        if self.trained_with is not None:
            return dict(self.trained_with)
        facts: dict[str, Any] = {"attack": str(self.attack_spec), "images": len(self.dm.dataset.train_x)}
        facts |= {"warmup_steps": self.warmup_steps} if self.warmup_steps >= 0 else {}
        return facts | ({"reference": self.base.image} if self.compares else {})

    def after_train(self) -> None:
        super().after_train()  # which takes the best tower where TEST.FINAL_MODEL asks for it
        self.save_tower()

    def save_tower(self) -> None:
        """The tower as it is now, for ``MODEL.IMAGE_WEIGHTS`` of other runs."""
        tower, card, cfg = self.image_encoder.visual.state_dict(), self.backbone.card.image, self.cfg
        made = tuned_tower.Provenance(
            base=self.base,
            image=digest_of_tower(tower, card),
            activation=tuned_tower.activation_of(self.backbone),
            mean=card.mean,
            std=card.std,
            size=card.size,
            trainer=cfg.TRAINER.NAME,
            dataset=catalog.title(cfg.DATASET),
            shots=cfg.DATASET.NUM_SHOTS,
            seed=cfg.SEED,
            epoch=(self.loaded or {}).get("epoch") or self.max_epoch,
            training=self.training_facts(),
        )
        tuned_tower.write(Path(self.output_dir, IMAGE_ENCODER, tuned_tower.FILE), tower, made)

    def prompts(self) -> Prompts:
        if not self.attacked_before_tuning():
            return super().prompts()
        before = load_backbone(BackboneSettings.from_cfg(self.cfg), self.device)
        return dataclasses.replace(super().prompts(), untuned=before)

    def attacked_before_tuning(self) -> bool:
        """Whether an attacker who has the tower as it was is asked for."""
        asked = threats(self.eval_settings.attacks, self.eval_settings.protocols)
        return any(threat.before_tuning for threat in asked)

    def use_encoder_as_it_is(self) -> None:
        """Evaluate a frozen copy with a hash of its own, so that no other run has its banks."""
        self.bank_cache = self.bank_cache.with_backbone(self.backbone.copy())

    def point(self) -> CurvePoint:
        self.use_encoder_as_it_is()
        return super().point()

    def test(self, split: str | None = None) -> float:
        self.use_encoder_as_it_is()
        return super().test(split)

    def subject(self, split: str) -> Subject:
        self.use_encoder_as_it_is()
        return super().subject(split)

    def save_model(self, epoch: int, directory: str, *args: Any, **kwargs: Any) -> None:
        """The latest checkpoint only: with the optimizer's state each is three times the encoder."""
        super().save_model(epoch, directory, *args, **kwargs)
        for path in Path(directory, IMAGE_ENCODER).glob("model.pth.tar-*"):
            if path.name != f"model.pth.tar-{epoch + 1}":
                path.unlink()

    def backbone_facts(self) -> dict[str, JSON]:
        """The image tower is what was tuned: the text tower alone says on which CLIP."""
        return {"name": self.backbone.name, "text": self.backbone.text_digest}

    def about(self) -> dict[str, Any]:
        return super().about() | {"base": to_json(self.base)}

    def require_base(self, about: Mapping[str, Any], path: Path) -> None:
        """Refuse (WeightsError) a tower that was tuned from another one than this run's; ``about`` may not say."""
        theirs, mine = exchange.tuned_in(about, "base"), self.base
        for tower in ("text", "image"):
            if theirs.get(tower) not in (None, getattr(mine, tower)):
                raise WeightsError(
                    f"{path} is of a tower that was tuned from another CLIP: {theirs.get('name')} with the {tower} "
                    f"tower {str(theirs[tower])[:12]}, and MODEL now names {mine.name} with "
                    f"{getattr(mine, tower)[:12]}. To go on with that run, or to attack its tower as it was (protocol "
                    "untuned), name that CLIP with MODEL.BACKBONE.NAME, MODEL.WEIGHTS and MODEL.IMAGE_WEIGHTS; to "
                    "start anew, give another --output-dir"
                )

    def require_fit(self, path: Path) -> dict[str, Any]:
        about = exchange.about(path)
        exchange.require_towers(about, str(path), self.backbone, ("text",))
        if self.attacked_before_tuning():
            self.require_base(about, path)
        self.compare_templates(about)
        return about

    def load_weights(self, path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
        if facts := exchange.tuned_in(about, "training"):
            try:
                from_json(TrainingFacts, facts)
            except FieldError as error:
                beside = path.parent / exchange.ABOUT
                raise WeightsError(f"{beside} does not say what trained {path.name}: {error}") from error
            self.trained_with = facts
        return {"epoch": load_image_encoder(path, self.backbone)}
