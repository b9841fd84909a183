"""A tiny CLIP in double precision, for gradients against central differences."""

from __future__ import annotations

import dataclasses

from torch import nn

from advpt.backbones.backbone import Backbone
from advpt.test_time.base import DefendedModel
from tests.helpers.tiny_clip import defended_model


def in_float64(clip: Backbone) -> DefendedModel:
    """The defended model with its classifier in float64. The image tower of ``clip`` is converted in place; OpenAI's
    layer norm, which computes in float32, gives way to PyTorch's."""
    model, image = defended_model(clip), clip.require_image().double()
    for module in image.modules():
        if isinstance(module, nn.LayerNorm):
            module.__class__ = nn.LayerNorm
    classifier = dataclasses.replace(model.classifier, features=model.classifier.features.double())
    return dataclasses.replace(model, classifier=classifier)
