"""CLIP's image features with prompts among the tokens. The blocks of the vision transformer are walked as they are.

The first prompts stand behind the patches, after the positional embedding (they get none) and before ``ln_pre``; those
of deeper layers take the same last positions at the input of their block (Khattak et al., CVPR 2023; Jia et al., ECCV
2022). The feature is read at the class token.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.clip import ImageEncoder
from advpt.errors import PromptError
from advpt.files import tensor_digest


def image_features(
    encoder: ImageEncoder,
    pixels: Tensor,
    visual: Tensor | None = None,
    hidden_states: list[Tensor] | None = None,
    *,
    class_token_only: bool = False,
) -> Tensor:
    """Features ``[b, L]`` float32 of ``pixels [b, 3, h, w]`` in [0, 1], projected, not normalised.

    Without prompts and hidden states this is ``encoder(pixels)``, bit by bit.

    Args:
        visual: prompts ``[J, n, D_v]`` of blocks 0 .. J - 1, or ``[S, J, n, D_v]`` where b is a multiple of S: the
            first b / S images are seen through the first prompts, and so on.
        hidden_states: a list that gets one tensor ``[b, tokens, D_v]`` for each block, its input after prompts were
            put in (the first is the output of ``ln_pre``), and the output of the last block. Tokens: class, patches,
            prompts.
        class_token_only: compute the class token alone behind the keys and values of the last block. The feature is the
            same to rounding; the last hidden state has the class token alone.

    Raises:
        PromptError: the image encoder is a ResNet, or images cannot be shared out among S prompts.
    """
    if visual is None and hidden_states is None and not class_token_only:
        return encoder(pixels)
    tower: Any = encoder.visual
    if not hasattr(tower, "transformer"):
        raise PromptError("visual prompts are tokens of a vision transformer, and this image encoder is a ResNet")
    x = tower.conv1((pixels - encoder.mean) / encoder.std).flatten(2).permute(0, 2, 1)
    x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], 1) + tower.positional_embedding
    prompts = _of_each_image(visual, len(x)) if visual is not None else ()
    n = prompts[0].shape[1] if prompts else 0
    x = tower.ln_pre(torch.cat([x, *prompts[:1]], 1)).permute(1, 0, 2)
    for i, block in enumerate(tower.transformer.resblocks):
        if 0 < i < len(prompts):
            x = torch.cat([x[:-n], prompts[i].permute(1, 0, 2)])
        if hidden_states is not None:
            hidden_states.append(x.permute(1, 0, 2))
        x = _at_class_token(block, x) if class_token_only and i + 1 == len(tower.transformer.resblocks) else block(x)
    if hidden_states is not None:
        hidden_states.append(x.permute(1, 0, 2))
    return tower.ln_post(x[0]) @ tower.proj


def _at_class_token(block: Any, x: Tensor) -> Tensor:
    """``[1, b, D]``: what a block of CLIP makes at the first of tokens ``x [T, b, D]``."""
    weight, bias, heads, d = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.num_heads, x.shape[-1]

    def split(part: Tensor) -> Tensor:
        return part.unflatten(-1, (heads, d // heads)).permute(1, 2, 0, 3)  # [b, heads, tokens, D / heads]

    normed = block.ln_1(x)
    query = F.linear(normed[:1], weight[:d], bias[:d])
    keys, values = F.linear(normed, weight[d:], bias[d:]).split(d, -1)
    attended = F.scaled_dot_product_attention(split(query), split(keys), split(values))
    first = x[:1] + block.attn.out_proj(attended.permute(2, 0, 1, 3).flatten(-2))
    return first + block.mlp(block.ln_2(first))


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
