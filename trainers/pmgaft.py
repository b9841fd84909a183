"""PMG-AFT (Wang et al., CVPR 2024): cross-entropy of attacked images, guided by the predictions of the frozen tower on
the same attacked images and by the tuned tower's own on the clean ones.

Three losses go by this name, each a ``PROFILE``: ``paper``; ``released``, the authors' code, which has no logit scale
and sums its KLs over the batch (the cross-entropy is a mean); ``ttc``, as TTC's and AdvFLYP's code have it, the KLs the
other way round. Unlike the released code, pixels are normalised with CLIP's mean and std, not with ImageNet's, and a
tuned tower is evaluated at the model's logit scale: equal predictions, and the attacks that all other towers meet.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt import losses
from advpt.prompts.classifier import Classifier
from advpt.settings import FROM_0, register, setting
from trainers.finetune import EncoderSettings, EncoderTrainer


@dataclass(frozen=True)
class Profile:
    """Values of settings that are left open; the defaults are the paper's."""

    scale: float = 0.0  # of the logits; 0: the model's
    kl_direction: str = "target_is_reference"
    kl_reduction: str = "mean"


PROFILES = {
    "paper": Profile(),
    "released": Profile(scale=1.0, kl_reduction="sum"),
    "ttc": Profile(kl_direction="reverse"),
}


@register("TRAINER.PMGAFT")
class PMGAFTSettings(EncoderSettings):
    """``SCALE`` 0 and "" leave a value to the profile."""

    attack: str = "pgd2-ce@1/a1"
    warmup_steps: int = 1000
    alpha: float = setting(1.0, "weight of the KL to the frozen tower on attacked images", allowed=FROM_0)
    beta: float = setting(1.0, "weight of the KL to the tuned tower on clean images", allowed=FROM_0)
    profile: str = setting("paper", "values of what is left open: as the paper, its code, or TTC's code have them",
                           allowed=tuple(PROFILES))  # fmt: skip
    scale: float = setting(0.0, "logit scale of the loss and the training attack; 0: the profile's", allowed=FROM_0)
    kl_direction: str = setting("", "side of the KL that the target is on", allowed=("", *losses.KL_DIRECTIONS))
    kl_reduction: str = setting("", "KLs of the images of a batch together", allowed=("", *losses.KL_REDUCTIONS))

    def resolved(self) -> Profile:
        """The profile with the values that are given."""
        given = {name: getattr(self, name) for name in ("scale", "kl_direction", "kl_reduction")}
        return dataclasses.replace(PROFILES[self.profile], **{name: value for name, value in given.items() if value})


@TRAINER_REGISTRY.register()
class PMGAFT(EncoderTrainer):
    settings, compares = PMGAFTSettings, True
    options: PMGAFTSettings
    training_classifier: Classifier  # the hand-written prompt at the scale of the loss

    def build_model(self) -> None:
        super().build_model()
        scale = self.options.resolved().scale or self.zero_shot.scale
        self.training_classifier = dataclasses.replace(self.zero_shot, scale=scale)

    def logits(self, pixels: Tensor) -> Tensor:
        return self.training_classifier.logits(self.image_encoder(pixels))

    def loss(self, pixels: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
        options, profile = self.options, self.options.resolved()
        with torch.no_grad():
            frozen = self.training_classifier.logits(self.reference(attacked))
        return losses.pmg_aft(
            self.logits(attacked),
            self.logits(pixels),
            frozen,
            labels,
            alpha=options.alpha,
            beta=options.beta,
            direction=profile.kl_direction,
            reduction=profile.kl_reduction,
        )[0]
