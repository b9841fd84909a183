"""The blocks of CLIP's vision transformer, without what its feature is not read from.

The feature is read at the class token alone. So the last block computes its keys and values of all tokens, and the rest
of itself for the class token. Images come before tokens, so that no tensor has to be rearranged for the attention.
Features and gradients are those of OpenAI's module; in float32 on a CPU to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.linear import linear

ROWS = 8  # rows that a matrix product has at least: those of fewer rows come from other kernels, with other last bits


def features_of_tokens(
    tower: Any, tokens: Tensor, prompts: Sequence[Tensor] = (), hidden_states: list[Tensor] | None = None
) -> Tensor:
    """Projected features ``[b, L]`` of a vision transformer, not normalised.

    Args:
        tokens: ``[b, T, D]`` as ``ln_pre`` gives them, the class token first.
        prompts: for each layer tokens ``[b, n, D]`` that take the last n positions at the input of its block; the first
            layer's are among ``tokens``.
        hidden_states: gets one tensor ``[b, T, D]`` for each block, its input with the prompts.
    """
    x, blocks = tokens, tower.transformer.resblocks
    for i, block in enumerate(blocks):
        if 0 < i < len(prompts):
            x = torch.cat([x[:, : -prompts[i].shape[1]], prompts[i]], 1)
        if hidden_states is not None:
            hidden_states.append(x)
        x = _block(block, x, last=i + 1 == len(blocks))
    return tower.ln_post(x[:, 0]) @ tower.proj


def _block(block: Any, x: Tensor, last: bool) -> Tensor:
    """What a residual block makes of ``x [b, T, D]``; of the ``last`` one the first token(s) alone."""
    attention = block.attn
    qkv = linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [b, heads, T, D / heads] each
    if last:
        q = q[:, :, :ROWS]
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    if last:
        read = 1 if len(x) >= ROWS else ROWS
        attended, x = attended[:, :read], x[:, :read]
    x = x + linear(attended, attention.out_proj.weight, attention.out_proj.bias)
    mlp = block.mlp
    hidden = mlp.gelu(linear(block.ln_2(x), mlp.c_fc.weight, mlp.c_fc.bias))
    return x + linear(hidden, mlp.c_proj.weight, mlp.c_proj.bias)
