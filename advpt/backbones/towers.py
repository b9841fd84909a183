"""Vision transformers taken apart, so that prompts can stand among their tokens; what a residual block of CLIP is.

The feature of a class token is read at that token alone. So the last block computes its keys and values of all tokens,
and the rest of itself for the class token. Images come before tokens, so that no tensor has to be rearranged for the
attention. Features and gradients are those of OpenAI's and of open_clip's modules: in float32 on a CPU to 1e-6, and to
the last bit in narrow towers and where the biases of attention are 0 (a product of another shape adds a bias to its sum
at another place). Where no gradient is taken, open_clip's blocks come from a fused kernel of PyTorch's that rounds in
another way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advpt.backbones.card import ImageCard
from advpt.backbones.linear import linear

ROWS = 8  # rows that a matrix product has at least: those of fewer rows come from other kernels, with other last bits


class Walk(Protocol):
    """A vision transformer, step by step; all tokens are ``[b, T, D]``, prompts the last of them."""

    blocks: Iterable[nn.Module]

    def embed(self, pixels: Tensor, wide: bool) -> Tensor:
        """Tokens of normalised pixels ``[b, 3, h, w]``, with their positions; float32 under autocast where ``wide``."""

    def enter(self, x: Tensor) -> Tensor:
        """What stands between the tokens and the first block."""

    def norm(self, block: Any, x: Tensor) -> Tensor:
        """What a block's attention reads of tokens ``x``: its first norm."""

    def step(self, block: Any, x: Tensor, last: bool) -> Tensor:
        """The output of a block; of the ``last`` one those tokens alone that the feature is made of, or more."""

    def finish(self, x: Tensor, prompts: int) -> Tensor:
        """Features ``[b, L]`` of the last block's output, of whose input the last ``prompts`` tokens were prompts."""


def walk_of(tower: nn.Module, card: ImageCard) -> Walk | None:
    """How to walk through an image tower; None where it has no tokens."""
    if not card.prompts:
        return None
    return ClipWalk(tower, card) if card.kind == "vit" else TimmWalk(tower)


class ClipWalk:
    """OpenAI's vision transformer, and open_clip's own."""

    def __init__(self, tower: Any, card: ImageCard) -> None:
        self.tower, self.blocks = tower, tower.transformer.resblocks
        self.reads_class, self.norm_last = card.reads_class_token, card.norm_last

    def embed(self, pixels: Tensor, wide: bool) -> Tensor:
        tower = self.tower
        x = tower.conv1(pixels).flatten(2).permute(0, 2, 1)
        x = widened(x) if wide else x
        x = torch.cat([tower.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], 1)
        return x + tower.positional_embedding.to(x.dtype)

    def enter(self, x: Tensor) -> Tensor:
        return self.tower.ln_pre(x)

    def norm(self, block: Any, x: Tensor) -> Tensor:
        return block.ln_1(x)

    def step(self, block: Any, x: Tensor, last: bool) -> Tensor:
        attention = block.attn
        first_only = last and self.reads_class and not exporting()
        qkv = linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [b, heads, T, D / heads]
        if first_only:
            q = q[:, :, :ROWS]
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if first_only:
            read = 1 if len(x) >= ROWS else ROWS
            attended, x = attended[:, :read], x[:, :read]
        return finish_block(block, x, attended, linear)

    def finish(self, x: Tensor, prompts: int) -> Tensor:
        tower = self.tower
        if self.reads_class:
            return self.project(x[:, 0])
        x = x[:, 1 : x.shape[1] - prompts]
        return self.project(x.mean(1)) if self.norm_last else tower.ln_post(x).mean(1) @ tower.proj

    def project(self, x: Tensor) -> Tensor:
        """Outputs of the last block, ``[..., D]``, behind the last norm and the projection, ``[..., L]``."""
        return self.tower.ln_post(x) @ self.tower.proj


class TimmWalk:
    """timm's ``VisionTransformer`` in open_clip's ``TimmModel``: SigLIP's, MobileCLIP-B's."""

    def __init__(self, tower: Any) -> None:
        self.trunk, self.head, self.blocks = tower.trunk, tower.head, tower.trunk.blocks

    def embed(self, pixels: Tensor, wide: bool) -> Tensor:
        x = self.trunk.patch_embed(pixels)
        return self.trunk._pos_embed(widened(x) if wide else x)

    def enter(self, x: Tensor) -> Tensor:
        return self.trunk.norm_pre(x)

    def norm(self, block: Any, x: Tensor) -> Tensor:
        return block.norm1(x)

    def step(self, block: Any, x: Tensor, last: bool) -> Tensor:
        return block(x)

    def finish(self, x: Tensor, prompts: int) -> Tensor:
        x = self.trunk.norm(x)
        return self.head(self.trunk.forward_head(x[:, : x.shape[1] - prompts]))


def exporting() -> bool:
    """Whether the model is turned into a graph for batches of any size, which may not ask for the size of one. (Before
    torch 2.7 that cannot be known.)"""
    ask = getattr(torch.compiler, "is_exporting", None)
    return ask is not None and ask()


def widened(x: Tensor) -> Tensor:
    """In float32 where it is narrower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scaled(block: Any, name: str, x: Tensor) -> Tensor:
    """``x`` through a block's LayerScale (``ls_1``, ``ls_2``), which OpenAI's blocks do not have."""
    scale = getattr(block, name, None)
    return x if scale is None else scale(x)


def finish_block(block: Any, x: Tensor, attended: Tensor, multiply: Any = F.linear) -> Tensor:
    """The rest of a residual block, of image or text, behind its attention: projection, residual, MLP.

    Args:
        x: its input ``[..., D]``. attended: of the same shape. multiply: ``F.linear`` or another of its kind.
    """
    out, (widen, activate, narrow) = block.attn.out_proj, block.mlp
    x = x + scaled(block, "ls_1", multiply(attended, out.weight, out.bias))
    hidden = activate(multiply(block.ln_2(x), widen.weight, widen.bias))
    return x + scaled(block, "ls_2", multiply(hidden, narrow.weight, narrow.bias))
