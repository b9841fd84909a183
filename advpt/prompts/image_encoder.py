"""Encoders with prompts among the tokens of an image."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from advpt.backbones.backbone import ImageEncoder
from advpt.backbones.mixture import Visual, visual_tensors
from advpt.files import tensor_digest


def with_visual_prompts(encoder: ImageEncoder, visual: Visual | None) -> Callable[[Tensor], Tensor]:
    """The encoder with these visual prompts; the encoder itself for None."""
    return encoder if visual is None else functools.partial(encoder.features, visual=visual)


def visual_digest(visual: Visual | None) -> str | None:
    """SHA-256 of visual prompts; None where there are none."""
    return None if visual is None else tensor_digest(visual_tensors(visual))
