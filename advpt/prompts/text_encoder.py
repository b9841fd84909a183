"""CLIP's text features, exactly, without the work that cannot change them.

CLIP's text transformer is causal and its feature is read at the end token. So the positions that all prompts of a batch
share at their beginning are computed once and their keys and values are shared, and the padding behind the end token is
never computed. The numbers are those of the 77-token forward (float32: features to 1e-6, gradients to 1e-5 relative).

Where gradients of a wide tower are wanted, :mod:`advpt.prompts.packed_text` computes them faster. Elsewhere the way of
format v1 is kept, to the last bit: the banks of attacks through a prompt are keyed by the digest of its features.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advpt.backbones.shim import import_clip
from advpt.errors import PromptError
from advpt.prompts import packed_text


@dataclass(frozen=True)
class PromptBatch:
    """K prompts as token embeddings, split into what they share and the rest.

    prefix: ``[P, d]`` float32, the first P positions of every prompt, P >= 1.
    suffix: ``[K, R, d]`` float32, what follows, padded with anything behind the end token.
    eos:    ``[K]`` int64, position of the end token within ``suffix``; on the CPU, or every call waits for the device.
    deep:   ``[J - 1, n, d]`` float32 or None: tokens that take positions 1 .. n at the input of blocks 1 .. J - 1, in
            the place of what the block before made there.

    ``prefix``, ``suffix`` and ``deep`` may each have a leading dimension S: the prompts of S samples, encoded together.
    """

    prefix: Tensor
    suffix: Tensor
    eos: Tensor
    deep: Tensor | None = None


class TextEncoder(nn.Module):
    """The frozen text tower of an (unmodified) OpenAI CLIP."""

    eos_token: int

    def __init__(self, clip_model: Any) -> None:
        super().__init__()
        self.token_embedding = clip_model.token_embedding
        self.transformer = clip_model.transformer
        self.ln_final = clip_model.ln_final
        self.positional_embedding = clip_model.positional_embedding
        self.text_projection = clip_model.text_projection
        self.context_length = int(clip_model.positional_embedding.shape[0])
        self.width = int(clip_model.ln_final.weight.shape[0])
        self.eos_token = int(clip_model.token_embedding.weight.shape[0]) - 1
        self._encode_rows: Callable[..., Tensor] = packed_text.encode_rows

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the token table for ``[...]`` int64 ids: ``[..., d]`` float32."""
        return self.token_embedding(tokens)

    def forward(self, prompts: PromptBatch) -> Tensor:
        """``[K, L]`` float32 features (``[S, K, L]`` of the prompts of S samples), projected, not normalised;
        differentiable in prefix, suffix and deep."""
        packed = torch.is_grad_enabled() and self.width >= packed_text.WIDTH
        return self._packed(prompts) if packed else self._plain(prompts)

    def compile(self, *args: Any, **options: Any) -> None:
        """As ``torch.nn.Module.compile``, of a tuning step's computation without its planning, which is cached."""
        self._encode_rows = torch.compile(packed_text.encode_rows, *args, **options)

    def _packed(self, prompts: PromptBatch) -> Tensor:
        samples, device, eos = _samples(prompts), prompts.suffix.device, tuple(prompts.eos.tolist())
        parts = min(len(eos), -(-(sum(eos) + len(eos)) // packed_text.AT_ONCE.get(device.type, sys.maxsize)))
        if parts > 1:
            pieces = zip(prompts.suffix.chunk(parts, -3), prompts.eos.chunk(parts))
            return torch.cat([self(dataclasses.replace(prompts, suffix=part, eos=ends)) for part, ends in pieces], -2)
        prefix, suffix = _expand(prompts.prefix, 3, samples or 1), _expand(prompts.suffix, 4, samples or 1)
        deep = _expand(prompts.deep, 4, samples or 1).unbind(1) if prompts.deep is not None else ()
        padding = packed_text.PADDING.get(device.type, 0)
        rows = packed_text.plan_rows(eos, padding, len(prefix), prefix.shape[1], suffix.shape[2], device)
        tokens = torch.cat([prefix.flatten(0, 1), suffix.flatten(0, 2)])
        features = self._encode_rows(self, tokens, deep, rows)
        return features.unflatten(0, (samples, -1)) if samples else features

    def _plain(self, prompts: PromptBatch) -> Tensor:
        shared, own = prompts.prefix.shape[-2], int(prompts.eos.max()) + 1
        samples = _samples(prompts)
        s, k = samples or 1, len(prompts.eos)
        prefix = _expand(prompts.prefix + self.positional_embedding[:shared], 3, s)
        suffix = prompts.suffix[..., :own, :] + self.positional_embedding[shared : shared + own]
        suffix = _expand(suffix, 4, s).flatten(0, 1)
        deep = _expand(prompts.deep, 4, s).unbind(1) if prompts.deep is not None else ()
        sees = torch.ones(own, shared + own, dtype=torch.bool, device=suffix.device).tril_(shared)
        for i, block in enumerate(self.transformer.resblocks):
            if 0 < i <= len(deep):
                prefix, suffix = _overwrite(prefix, suffix, deep[i - 1])
            prefix, suffix = _block(block, prefix, suffix, sees)
        rows = torch.arange(s * k, device=suffix.device)
        features = self.ln_final(suffix[rows, prompts.eos.repeat(s)]) @ self.text_projection
        return features.unflatten(0, (s, k)) if samples else features

    def encode_tokens(self, tokens: Tensor, chunk: int = 512) -> Tensor:
        """Features ``[K, L]`` of token ids ``[K, n]`` as ``clip.tokenize`` makes them (end token = largest id)."""
        tokens = tokens.to(self.positional_embedding.device)
        eos = tokens.argmax(-1)
        same = (tokens == tokens[:1]).all(0).long().cumprod(0)
        shared = max(1, min(int(same.sum()), int(eos.min())))
        prefix = self.embed(tokens[0, :shared])
        parts = [
            self(PromptBatch(prefix, self.embed(part[:, shared:]), end - shared))
            for part, end in zip(tokens.split(chunk), eos.split(chunk))
        ]
        return torch.cat(parts)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Features ``[K, L]`` of plain texts.

        Raises:
            PromptError: when a text has more tokens than CLIP reads; it names the text.
        """
        return self.encode_tokens(tokenize(texts, self.context_length))


def tokenize(texts: Sequence[str], context_length: int = 77) -> Tensor:
    """OpenAI's BPE tokens ``[K, context_length]`` int64 with start and end tokens, zero-padded.

    Raises:
        PromptError: when a text is too long.
    """
    clip = import_clip()
    for text in texts:
        needed = len(word_tokens(text)) + 2
        if needed > context_length:
            raise PromptError(f"the prompt {text!r} has {needed} tokens; CLIP reads {context_length}. Shorten it")
    return clip.tokenize(list(texts), context_length=context_length).long()


def word_tokens(text: str) -> list[int]:
    """The BPE token ids of a text, without start and end."""
    return list(import_clip().clip._tokenizer.encode(text))


def class_tokens(name: str) -> list[int]:
    """The BPE token ids of a class name as prompts have it: underscores are spaces."""
    return word_tokens(name.replace("_", " "))


def _samples(prompts: PromptBatch) -> int:
    """The number of samples with prompts of their own; 0 where all are the same."""
    parts = ((prompts.prefix, 2), (prompts.suffix, 3), (prompts.deep, 3))
    return max((len(part) for part, plain in parts if part is not None and part.dim() > plain), default=0)


def _expand(part: Tensor, dims: int, samples: int) -> Tensor:
    """With a leading dimension of ``samples``, whether it has one or not."""
    return part if part.dim() == dims else part.expand(samples, *part.shape)


def _overwrite(prefix: Tensor, suffix: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Positions 1 .. n of all prompts become ``tokens [S, n, d]``; those that no prompt shares lie in the rest."""
    n, inside = tokens.shape[1], min(tokens.shape[1], prefix.shape[1] - 1)
    prefix = torch.cat([prefix[:, :1], tokens[:, :inside], prefix[:, 1 + inside :]], 1)
    if inside < n:
        each = tokens[:, inside:].repeat_interleave(len(suffix) // len(tokens), 0)
        suffix = torch.cat([each, suffix[:, n - inside :]], 1)
    return prefix, suffix


def _block(block: Any, prefix: Tensor, suffix: Tensor, sees: Tensor) -> tuple[Tensor, Tensor]:
    """One residual block of CLIP on the shared prefixes ``[S, P, d]`` and the own rests ``[S * K, R, d]``."""
    heads = block.attn.num_heads
    q_p, k_p, v_p = _heads(block, prefix, heads)
    q_r, k_r, v_r = _heads(block, suffix, heads)
    keys, values = torch.cat([_for_each(k_p, suffix), k_r], 2), torch.cat([_for_each(v_p, suffix), v_r], 2)
    prefix = _finish(block, prefix, F.scaled_dot_product_attention(q_p, k_p, v_p, is_causal=True))
    suffix = _finish(block, suffix, F.scaled_dot_product_attention(q_r, keys, values, attn_mask=sees))
    return prefix, suffix


def _for_each(shared: Tensor, suffix: Tensor) -> Tensor:
    """``[S, ...]`` of the prefixes as ``[S * K, ...]``, once for each rest; not copied where S is 1."""
    s = len(shared)
    if s == 1:
        return shared.expand(len(suffix), -1, -1, -1)
    return shared.repeat_interleave(len(suffix) // s, 0)


def _heads(block: Any, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values ``[b, heads, n, d / heads]`` of ``[b, n, d]``."""
    b, n, d = x.shape
    qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = qkv.view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    return q, k, v


def _finish(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Output projection, residual and MLP of a block."""
    b, n, d = x.shape
    x = x + block.attn.out_proj(attended.transpose(1, 2).reshape(b, n, d))
    return x + block.mlp(block.ln_2(x))
