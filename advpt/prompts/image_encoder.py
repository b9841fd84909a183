"""CLIP's image features with prompts among the tokens.

The first prompts stand behind the patches, after the positional embedding (they get none) and before ``ln_pre``; those
of deeper layers take the same last positions at the input of their block (Khattak et al., CVPR 2023; Jia et al., ECCV
2022). The feature is read at the class token.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advpt.backbones.clip import ImageEncoder
from advpt.backbones.vision import features_of_tokens
from advpt.errors import PromptError
from advpt.files import tensor_digest


def image_features(
    encoder: ImageEncoder, pixels: Tensor, visual: Tensor | None = None, hidden_states: list[Tensor] | None = None
) -> Tensor:
    """Features ``[b, L]`` float32 of ``pixels [b, 3, h, w]`` in [0, 1], projected, not normalised.

    Without prompts this is ``encoder(pixels)``, bit by bit.

    Args:
        visual: prompts ``[J, n, D_v]`` of blocks 0 .. J - 1, or ``[S, J, n, D_v]`` where b is a multiple of S: the
            first b / S images are seen through the first prompts, and so on.
        hidden_states: a list that gets one tensor ``[b, tokens, D_v]`` for each block, its input after prompts were
            put in (the first is the output of ``ln_pre``). Tokens: class, patches, prompts.

    Raises:
        PromptError: the image encoder is a ResNet, or images cannot be shared out among S prompts.
    """
    if visual is None and hidden_states is None:
        return encoder(pixels)
    tower: Any = encoder.visual
    if not hasattr(tower, "transformer"):
        raise PromptError("visual prompts are tokens of a vision transformer, and this image encoder is a ResNet")
    x = tower.conv1(encoder.normalise(pixels)).flatten(2).permute(0, 2, 1)
    x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], 1) + tower.positional_embedding
    prompts = _of_each_image(visual, len(x)) if visual is not None else ()
    return features_of_tokens(tower, tower.ln_pre(torch.cat([x, *prompts[:1]], 1)), prompts, hidden_states)


def _of_each_image(visual: Tensor, images: int) -> tuple[Tensor, ...]:
    """For each layer the prompts ``[b, n, D_v]`` of every image."""
    if visual.dim() == 3:
        return visual.unsqueeze(0).expand(images, -1, -1, -1).unbind(1)
    if images % len(visual):
        raise PromptError(f"{images} images cannot be shared out evenly among the prompts of {len(visual)} samples")
    return visual.repeat_interleave(images // len(visual), 0).unbind(1)


def with_visual_prompts(encoder: ImageEncoder, visual: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Pixels to features through these prompts; the encoder itself where there are none."""
    return encoder if visual is None else functools.partial(image_features, encoder, visual=visual)


def visual_digest(visual: Tensor | None) -> str | None:
    """SHA-256 of visual prompts; None where there are none."""
    return None if visual is None else tensor_digest({"visual": visual})
