"""CLIP's text features, exactly, without the work that cannot change them.

CLIP's text transformer is causal and its feature is read at the end token. So the positions that all prompts of a batch
share at their beginning are computed once, the padding behind the end token is never computed, and of the last block
only the end tokens are. What is left are the rows of one matrix, prompts of one length side by side, and every linear
layer is one product with it. The numbers are those of the 77-token forward (float32: features to 1e-6, gradients to
1e-5 relative).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advpt.backbones.shim import import_clip
from advpt.errors import PromptError

PADDING = {"cpu": 2, "cuda": 512}  # rows of padding that cost less than another group of prompts does in attention
AT_ONCE = {"cpu": 2048}  # rows of prompts whose intermediate values stay in the cache, and in memory that is used again


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

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the token table for ``[...]`` int64 ids: ``[..., d]`` float32."""
        return self.token_embedding(tokens)

    def forward(self, prompts: PromptBatch) -> Tensor:
        """``[K, L]`` float32 features (``[S, K, L]`` of the prompts of S samples), projected, not normalised;
        differentiable in prefix, suffix and deep."""
        samples, device, eos = _samples(prompts), prompts.suffix.device, tuple(prompts.eos.tolist())
        parts = min(len(eos), -(-(sum(eos) + len(eos)) // AT_ONCE.get(device.type, sys.maxsize)))
        if parts > 1:
            pieces = zip(prompts.suffix.chunk(parts, -3), prompts.eos.chunk(parts))
            return torch.cat([self(replace(prompts, suffix=suffix, eos=ends)) for suffix, ends in pieces], -2)
        prefix, suffix = _expand(prompts.prefix, 3, samples), _expand(prompts.suffix, 4, samples)
        deep = _expand(prompts.deep, 4, samples).unbind(1) if prompts.deep is not None else ()
        rows = _rows(eos, PADDING.get(device.type, 0), len(prefix), prefix.shape[1], suffix.shape[2], device)
        features = self._encode(torch.cat([prefix.flatten(0, 1), suffix.flatten(0, 2)]), deep, rows)
        return features.unflatten(0, (samples, -1)) if samples else features

    def _encode(self, tokens: Tensor, deep: Sequence[Tensor], rows: _Rows) -> Tensor:
        """Features ``[S * K, L]`` of the embedded tokens from which ``rows`` are taken."""
        x = tokens.index_select(0, rows.source) + self.positional_embedding[rows.positions]
        blocks = self.transformer.resblocks
        for i, block in enumerate(blocks):
            if 0 < i <= len(deep):
                x = _overwrite(x, deep[i - 1], rows)
            x = _block(block, x, rows, last=i == len(blocks) - 1)
        return self.ln_final(x).index_select(0, rows.order) @ self.text_projection

    def compile(self, *args: Any, **options: Any) -> None:
        """As ``torch.nn.Module.compile``, of the computation without its planning, which is kept from call to call."""
        self._encode = torch.compile(self._encode, *args, **options)  # type: ignore[method-assign]

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
    """With a leading dimension of ``samples`` (1 where there are none), whether it has one or not."""
    return part if part.dim() == dims else part.expand(samples or 1, *part.shape)


@dataclass(frozen=True)
class _Group:
    """Prompts of about one length: ``count`` of each sample, ``length`` own rows each. Shorter ones repeat their first
    row in front, which is ``hidden`` (``[count or 1, length, length]``, with what lies behind); all end with their end
    token."""

    count: int
    length: int
    hidden: Tensor


@dataclass(frozen=True)
class _Rows:
    """The positions of the prompts of S samples as N rows: the prefixes, then all prompts of one group after another.

    source:    ``[N]`` the row among the prefixes ``[S * P]`` with the suffixes ``[S * K * R]`` behind them.
    positions: ``[N]`` position in the prompt.
    samples:   ``[N]`` whose prompt.
    ends:      ``[S * K]`` rows of the end tokens.
    order:     ``[S * K]`` where among them each prompt's is.
    """

    shared: int
    groups: tuple[_Group, ...]
    source: Tensor
    positions: Tensor
    samples: Tensor
    ends: Tensor
    order: Tensor


@functools.lru_cache(maxsize=32)
def _rows(eos: tuple[int, ...], padding: int, samples: int, shared: int, size: int, device: torch.device) -> _Rows:
    """For K prompts with end tokens at ``eos`` of their suffixes of ``size`` positions, behind ``shared`` ones, in
    groups with at most ``padding`` rows too many."""
    sample, position = torch.arange(samples).view(-1, 1, 1), torch.arange(shared)
    groups, table = [], [(sample * shared + position, position, sample)]
    ends, prompts, start = [], [], samples * shared
    for group in grouped_by_length(eos, padding):
        lengths = torch.tensor([[eos[i] + 1] for i in group])
        length, prompt = int(lengths.max()), sample * len(eos) + torch.tensor(group)[:, None]
        row, missing = torch.arange(length), length - lengths
        position = (row - missing).clamp(0)
        table.append((samples * shared + prompt * size + position, shared + position, sample))
        hidden = (row > row[:, None]) | (row < missing)[:, None]
        groups.append(_Group(len(group), length, (hidden if missing.any() else hidden[:1]).to(device)))
        ends.append(start + length * torch.arange(1, samples * len(group) + 1) - 1)
        prompts.append(prompt.flatten())
        start += samples * len(group) * length
    columns = torch.cat([torch.stack(torch.broadcast_tensors(*part)).flatten(1) for part in table], 1)
    indices = (*columns, torch.cat(ends), torch.cat(prompts).argsort())
    return _Rows(shared, tuple(groups), *(index.to(device) for index in indices))


def grouped_by_length(eos: Sequence[int], padding: int) -> list[list[int]]:
    """The prompts from long to short, in groups with at most ``padding`` rows of padding each."""
    groups: list[list[int]] = []
    left = -1
    for prompt in sorted(range(len(eos)), key=eos.__getitem__, reverse=True):
        left -= eos[groups[-1][0]] - eos[prompt] if groups else 0
        if left < 0:
            groups.append([])
            left = padding
        groups[-1].append(prompt)
    return groups


def _overwrite(x: Tensor, tokens: Tensor, rows: _Rows) -> Tensor:
    """Positions 1 .. n of all prompts become ``tokens [S, n, d]``."""
    n = tokens.shape[1]
    inside = (rows.positions > 0) & (rows.positions <= n)
    chosen = rows.samples * n + (rows.positions - 1).clamp(0, n - 1)
    return torch.where(inside[:, None], tokens.flatten(0, 1).index_select(0, chosen), x)


def _block(block: Any, x: Tensor, rows: _Rows, last: bool) -> Tensor:
    """One residual block of CLIP on rows ``[N, d]``; the last one gives those of the end tokens, ``[S * K, d]``."""
    qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    attended = block.attn.out_proj(_attend(qkv, block.attn.num_heads, rows, last))
    x = (x.index_select(0, rows.ends) if last else x) + attended
    return x + block.mlp(block.ln_2(x))


def _attend(qkv: Tensor, heads: int, rows: _Rows, last: bool) -> Tensor:
    """Attention of the prefixes to themselves and of each prompt to prefix and itself: rows ``[N, d]``, or of the end
    tokens alone."""
    sizes = [rows.shared, *(group.count * group.length for group in rows.groups)]
    samples = len(qkv) // sum(sizes)
    parts = (_heads(part, samples, heads) for part in qkv.split([samples * size for size in sizes]))
    q, k_prefix, v_prefix = next(parts)
    attended = [] if last else [F.scaled_dot_product_attention(q[None], k_prefix[None], v_prefix[None], is_causal=True)]
    for group, part in zip(rows.groups, parts):
        q, k, v = (x.view(len(x), group.count, group.length, -1) for x in part)
        q = (q[:, :, -1:] if last else q) * q.shape[-1] ** -0.5
        attended.append(_attend_in_group(q, k, v, k_prefix, v_prefix, group.hidden[:, -q.shape[2] :]))
    return torch.cat(
        [x.view(samples, heads, -1, x.shape[-1]).transpose(1, 2).reshape(-1, heads * x.shape[-1]) for x in attended]
    )


def _attend_in_group(q: Tensor, k: Tensor, v: Tensor, k_prefix: Tensor, v_prefix: Tensor, hidden: Tensor) -> Tensor:
    """``[b, count * m, e]`` of scaled queries ``[b, count, m, e]``, keys and values ``[b, count, length, e]`` of each
    prompt and ``[b, P, e]`` of the prefix, which is multiplied with the queries of all prompts at once."""
    b, count, m, e = q.shape
    own = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).view(b, count, m, -1).masked_fill(hidden, -torch.inf)
    to_prefix = torch.bmm(q.flatten(1, 2), k_prefix.mT)
    weights = torch.cat([to_prefix, own.flatten(1, 2)], -1).softmax(-1)
    to_prefix, to_own = weights.split([k_prefix.shape[1], k.shape[2]], -1)
    own = torch.bmm(to_own.reshape(b * count, m, -1), v.flatten(0, 1)).view(b, count * m, e)
    return torch.baddbmm(own, to_prefix, v_prefix)


def _heads(qkv: Tensor, samples: int, heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values ``[S * heads, n, d / heads]`` of rows ``[S * n, 3 * d]``."""
    split = qkv.view(samples, len(qkv) // samples, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return split.flatten(1, 2).contiguous().unbind()
