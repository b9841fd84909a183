"""Text features, exactly, without the work that cannot change them.

CLIP's text transformer is causal and its feature is read at the end token. So the positions that all prompts of a batch
share at their beginning are computed once and their keys and values are shared, and the padding behind the end token is
never computed. The numbers are those of the 77-token forward (float32: features to 1e-6, gradients to 1e-5 relative).
Where a card says that a tower reads otherwise (in SigLIP's each position sees all, and the last is read), every
position is computed, padding too; and where a router makes prompts of each class's tokens, up to the last of them:
then prompts share no more than their start, and what the router reads is a mean over all positions.

Where gradients of a wide causal tower are wanted, :mod:`advpt.backbones.packed_text` computes them faster. Elsewhere
the way of format v1 is kept, to the last bit: banks of attacks through a prompt are keyed by its features' digest.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advpt.backbones import packed_text
from advpt.backbones.card import TextCard
from advpt.backbones.linear import linear
from advpt.backbones.mixture import Mixture
from advpt.backbones.tokenizers import Tokenizer
from advpt.backbones.towers import finish_block


@dataclass(frozen=True)
class PromptBatch:
    """K prompts as token embeddings, split into what they share and the rest.

    prefix: ``[P, d]`` float32, the first P positions of every prompt; P >= 1 for a tower that shares it.
    suffix: ``[K, R, d]`` float32, what follows, padded with anything behind the end token.
    eos:    ``[K]`` int64, position of the end token within ``suffix``; on the CPU, or every call waits for the device.
    deep:   ``[J - 1, n, d]`` float32 or None: tokens that take the n positions behind the start tokens at the input of
            blocks 1 .. J - 1, in the place of what the block before made there; or what makes them of each prompt's
            other tokens, its padding among them.

    ``prefix``, ``suffix`` and ``deep`` may each have a leading dimension S: the prompts of S samples, encoded together.
    """

    prefix: Tensor
    suffix: Tensor
    eos: Tensor
    deep: Tensor | Mixture | None = None


class TextEncoder(nn.Module):
    """A frozen text tower.

    Args:
        tower: OpenAI's CLIP, or a module of open_clip with the same parts. card: what it is.
        tokenizer: of its texts.
    """

    def __init__(self, tower: Any, card: TextCard, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.card, self.tokenizer = card, tokenizer
        self.token_embedding = tower.token_embedding
        self.transformer = tower.transformer
        self.ln_final = tower.ln_final
        self.positional_embedding = tower.positional_embedding
        self.text_projection = tower.text_projection
        self.context_length, self.width = card.context, card.width
        self._encode_rows: Callable[..., Tensor] = packed_text.encode_rows

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.positional_embedding.device

    @property
    def table(self) -> Tensor:
        """The token table ``[V, d]``."""
        return self.token_embedding.weight.detach()

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the token table for ``[...]`` int64 ids: ``[..., d]`` float32."""
        return self.token_embedding(tokens)

    def project(self, x: Tensor) -> Tensor:
        """Features of the last block's output at the positions that are read."""
        x, projection = self.ln_final(x), self.text_projection
        return x if projection is None else projection(x) if isinstance(projection, nn.Module) else x @ projection

    def forward(self, prompts: PromptBatch) -> Tensor:
        """``[K, L]`` float32 features (``[S, K, L]`` of the prompts of S samples), projected, not normalised;
        differentiable in prefix, suffix and deep."""
        if isinstance(prompts.deep, Mixture):
            return self._whole(prompts, prompts.deep)
        if not self.card.shares_prefix:
            return self._whole(prompts)
        packed = torch.is_grad_enabled() and self.width >= packed_text.WIDTH
        return self._packed(prompts) if packed else self._shared(prompts)

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
        padding = packed_text.PADDING.get(device.type, 0)
        rows = packed_text.plan_rows(eos, padding, len(prefix), prefix.shape[1], suffix.shape[2], device)
        tokens = torch.cat([prefix.flatten(0, 1), suffix.flatten(0, 2)])
        features = self._encode_rows(self, tokens, _deep(prompts, samples or 1), rows)
        return features.unflatten(0, (samples, -1)) if samples else features

    def _shared(self, prompts: PromptBatch) -> Tensor:
        shared, own = prompts.prefix.shape[-2], int(prompts.eos.max()) + 1
        samples = _samples(prompts)
        s, k = samples or 1, len(prompts.eos)
        prefix = _expand(prompts.prefix + self.positional_embedding[:shared], 3, s)
        suffix = prompts.suffix[..., :own, :] + self.positional_embedding[shared : shared + own]
        suffix = _expand(suffix, 4, s).flatten(0, 1)
        deep, first = _deep(prompts, s), len(self.card.start)
        sees = torch.ones(own, shared + own, dtype=torch.bool, device=suffix.device).tril_(shared)
        for i, block in enumerate(self.transformer.resblocks):
            if 0 < i <= len(deep):
                prefix, suffix = _overwrite(prefix, suffix, deep[i - 1], first)
            prefix, suffix = _block(block, prefix, suffix, sees)
        rows, ends = torch.arange(s * k, device=suffix.device), indices(prompts.eos.tolist() * s, suffix.device)
        features = self.project(suffix[rows, ends])
        return features.unflatten(0, (s, k)) if samples else features

    def _whole(self, prompts: PromptBatch, mixture: Mixture | None = None) -> Tensor:
        samples, shared, t, device = _samples(prompts), prompts.prefix.shape[-2], self.context_length, self.device
        s, k = samples or 1, len(prompts.eos)
        suffix = _expand(prompts.suffix[..., : t - shared, :], 4, s).flatten(0, 1)
        x = torch.cat([_expand(prompts.prefix, 3, s).repeat_interleave(k, 0), suffix], 1)
        end = indices((shared + prompts.eos).tolist() * s, device)
        behind = self.embed(self._behind(device)).expand(s * k, -1, -1)
        x = torch.cat([x, behind[:, x.shape[1] :]], 1)
        x = torch.where((torch.arange(t, device=device) > end[:, None])[..., None], behind, x)
        x = x + self.positional_embedding
        read = {"end": end, "last": torch.full_like(end, t - 1), "first": torch.zeros_like(end)}[self.card.reads]
        sees = torch.ones(t, t, dtype=torch.bool, device=device).tril_() if self.card.causal else None
        deep, first, blocks = _deep(prompts, s), len(self.card.start), self.transformer.resblocks
        for i, block in enumerate(blocks):
            if mixture is not None and 0 < i <= mixture.layers:
                x = _overwrite_each(block, x, mixture, i, first)
                if i == mixture.layers and self.card.shares_prefix:  # no router reads the padding any more
                    own = shared + int(prompts.eos.max()) + 1
                    x, sees = x[:, :own], None if sees is None else sees[:own, :own]
            if 0 < i <= len(deep):
                tokens = deep[i - 1].repeat_interleave(k, 0)
                x = torch.cat([x[:, :first], tokens, x[:, first + tokens.shape[1] :]], 1)
            x = _block_of_all(block, x, sees, read if i + 1 == len(blocks) else None)
        features = self.project(x)
        return features.unflatten(0, (s, k)) if samples else features

    def _behind(self, device: torch.device) -> Tensor:
        """The ids ``[context]`` of a text of nothing but what stands behind the end token."""
        tail = self.card.tail
        return indices([self.card.pad] * (self.context_length - len(tail)) + [*tail], device)

    def encode_tokens(self, tokens: Tensor, chunk: int = 512) -> Tensor:
        """Features ``[K, L]`` of token ids ``[K, n]`` as the tokenizer makes them."""
        tokens = tokens.to(self.device)
        ends, shared = self.tokenizer.ends(tokens), 0
        if self.card.shares_prefix:
            same = (tokens == tokens[:1]).all(0).long().cumprod(0)
            shared = max(1, min(int(same.sum()), int(ends.min())))
        prefix = self.embed(tokens[0, :shared])
        parts = [
            self(PromptBatch(prefix, self.embed(part[:, shared:]), end - shared))
            for part, end in zip(tokens.split(chunk), ends.split(chunk))
        ]
        return torch.cat(parts)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Features ``[K, L]`` of plain texts.

        Raises:
            PromptError: when a text has more tokens than the tower reads; it names the text.
        """
        return self.encode_tokens(self.tokenizer.batch(texts))


def indices(values: Sequence[int], device: torch.device) -> Tensor:
    """``[n]`` int64. On another device than the CPU the same values are copied once: CUDA graphs capture no copies from
    the host."""
    return torch.tensor(values) if device.type == "cpu" else copied(tuple(values), device)


@functools.lru_cache(maxsize=32)
def copied(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Values on a device, the same tensor again and again."""
    return torch.tensor(values).to(device)


def _samples(prompts: PromptBatch) -> int:
    """The number of samples with prompts of their own; 0 where all are the same."""
    mixture, deep = (prompts.deep, None) if isinstance(prompts.deep, Mixture) else (None, prompts.deep)
    parts = ((prompts.prefix, 2), (prompts.suffix, 3), (deep, 3))
    samples = max((len(part) for part, plain in parts if part is not None and part.dim() > plain), default=0)
    return max(samples, mixture.samples) if mixture is not None else samples


def _expand(part: Tensor, dims: int, samples: int) -> Tensor:
    """With a leading dimension of ``samples``, whether it has one or not."""
    return part if part.dim() == dims else part.expand(samples, *part.shape)


def _deep(prompts: PromptBatch, samples: int) -> tuple[Tensor, ...]:
    """For each block from the second on, the tokens ``[S, n, d]`` of :attr:`PromptBatch.deep`."""
    return _expand(prompts.deep, 4, samples).unbind(1) if isinstance(prompts.deep, Tensor) else ()


def _overwrite_each(block: Any, x: Tensor, mixture: Mixture, layer: int, first: int) -> Tensor:
    """The n positions from ``first`` on of prompts ``x [b, T, d]`` become what the mixture makes of the others."""
    n = mixture.base.shape[-2]
    start, rest = x[:, :first], x[:, first + n :]
    return torch.cat([start, mixture.prompts(layer, block.ln_1(torch.cat([start, rest], 1))), rest], 1)


def _overwrite(prefix: Tensor, suffix: Tensor, tokens: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The n positions from ``first`` on of all prompts become ``tokens [S, n, d]``; those that no prompt shares lie in
    the rest."""
    n, inside = tokens.shape[1], min(tokens.shape[1], prefix.shape[1] - first)
    prefix = torch.cat([prefix[:, :first], tokens[:, :inside], prefix[:, first + inside :]], 1)
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
    """The rest of a block behind its attention ``[b, heads, n, d / heads]``."""
    return finish_block(block, x, attended.transpose(1, 2).flatten(2))


def _block_of_all(block: Any, x: Tensor, sees: Tensor | None, read: Tensor | None) -> Tensor:
    """One residual block on all positions ``[b, T, d]``, of which each sees ``sees [T, T]`` (None: all); with ``read
    [b]`` the output ``[b, d]`` at those positions alone."""
    qkv = linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = qkv.unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if read is not None:
        rows = torch.arange(len(x), device=x.device)
        q, x = q[rows, :, read][:, :, None], x[rows, read][:, None]
        sees = None if sees is None else sees[read][:, None, None]
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=sees)
    x = finish_block(block, x, attended.transpose(1, 2).flatten(2), linear)
    return x if read is None else x[:, 0]
