"""CoCoOp (Zhou et al., CVPR 2022): a context that every image moves, tuned on clean augmented images.

The image feature goes through a small net whose output is added to the context, so that each image has text features
of its own. Attackers of ``transfer`` go through the hand-written prompt as everywhere, adaptive ones through the image
encoder, the net and the text encoder. Builds on its neighbour ``trainers/advpt.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from dassl.engine import TRAINER_REGISTRY
from torch import Tensor

from advpt.backbones.precision import half_precision
from advpt.prompts.conditional import ConditionalLearner, logits_of_images
from advpt.settings import SharedContext, register
from trainers.advpt import PromptTrainer


@register("TRAINER.COCOOP")
class CoCoOpSettings(SharedContext):
    n_ctx: int = 4
    ctx_init: str = "a photo of a"
    precision: str = "fp16"


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    settings, learner = CoCoOpSettings, ConditionalLearner
    prompt_learner: ConditionalLearner

    def forward_backward(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        features, labels = self.embed_images(batch)
        with half_precision(self.context.precision, self.device):
            text = self.encoder(self.prompt_learner.of_images(F.normalize(features, dim=-1)))
        logits = logits_of_images(features, text.float(), self.backbone.logit_scale)
        return self.gradient_step(F.cross_entropy(logits, labels))

    def towers(self) -> tuple[str, ...]:
        return ("text", "image")  # the net reads image features
