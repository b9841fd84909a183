"""CLIP's text features for tuning: one matrix of the rows that matter, and a backward pass to match.

The positions that all prompts share are computed once, padding never, and of the last block only the end tokens. What
is left are the rows of one matrix, prompts of one length side by side, so that every linear layer is one product. The
numbers are those of the 77-token forward (float32: features to 1e-6, gradients to 1e-5 relative).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advpt.backbones.linear import fast_linear
from advpt.backbones.towers import finish_block

PADDING = {"cpu": 2, "cuda": 512}  # rows of padding that cost less than another group of prompts does in attention
WIDTH = 256  # of the narrowest tower that gains: in a narrower one the plain way costs no more
AT_ONCE = {"cpu": 2048}  # rows of prompts whose intermediate values stay in the cache, and in memory that is used again


def encode_rows(encoder: Any, tokens: Tensor, deep: Sequence[Tensor], rows: Rows) -> Tensor:
    """Features ``[S * K, L]``, projected, not normalised.

    Args:
        encoder: the :class:`~advpt.backbones.text_encoder.TextEncoder`.
        tokens: embedded tokens ``[T, d]`` from which ``rows`` are taken.
        deep: for each block from the second on, tokens ``[S, n, d]`` that take the positions behind the start tokens.
        rows: which token is at which position of which prompt.
    """
    x = tokens.index_select(0, rows.source) + encoder.positional_embedding[rows.positions]
    blocks, first = encoder.transformer.resblocks, len(encoder.card.start)
    for i, block in enumerate(blocks):
        if 0 < i <= len(deep):
            x = _overwrite(x, deep[i - 1], rows, first)
        x = _block(block, x, rows, last=i == len(blocks) - 1)
    return encoder.project(x.index_select(0, rows.order))


@dataclass(frozen=True)
class Group:
    """Prompts of about one length: ``count`` of each sample, ``length`` own rows each. Shorter ones repeat their first
    row in front, which is ``hidden`` (``[count or 1, length, length]``, with what lies behind); all end with their end
    token."""

    count: int
    length: int
    hidden: Tensor


@dataclass(frozen=True)
class Rows:
    """The positions of the prompts of S samples as N rows: the prefixes, then all prompts of one group after another.

    source:    ``[N]`` the row among the prefixes ``[S * P]`` with the suffixes ``[S * K * R]`` behind them.
    positions: ``[N]`` position in the prompt.
    samples:   ``[N]`` whose prompt.
    ends:      ``[S * K]`` rows of the end tokens.
    order:     ``[S * K]`` where among them each prompt's is.
    """

    shared: int
    groups: tuple[Group, ...]
    source: Tensor
    positions: Tensor
    samples: Tensor
    ends: Tensor
    order: Tensor


@functools.lru_cache(maxsize=32)
def plan_rows(eos: tuple[int, ...], padding: int, samples: int, shared: int, size: int, device: torch.device) -> Rows:
    """For K prompts with end tokens at ``eos`` of their suffixes of ``size`` positions, behind ``shared`` ones, in
    groups with at most ``padding`` rows too many."""
    sample, position = torch.arange(samples).view(-1, 1, 1), torch.arange(shared)
    groups, table = [], [(sample * shared + position, position, sample)]
    ends, prompts, start = [], [], samples * shared
    for group in group_by_length(eos, padding):
        lengths = torch.tensor([[eos[i] + 1] for i in group])
        length, prompt = int(lengths.max()), sample * len(eos) + torch.tensor(group)[:, None]
        row, missing = torch.arange(length), length - lengths
        position = (row - missing).clamp(0)
        table.append((samples * shared + prompt * size + position, shared + position, sample))
        hidden = (row > row[:, None]) | (row < missing)[:, None]
        groups.append(Group(len(group), length, (hidden if missing.any() else hidden[:1]).to(device)))
        ends.append(start + length * torch.arange(1, samples * len(group) + 1) - 1)
        prompts.append(prompt.flatten())
        start += samples * len(group) * length
    columns = torch.cat([torch.stack(torch.broadcast_tensors(*part)).flatten(1) for part in table], 1)
    indices = (*columns, torch.cat(ends), torch.cat(prompts).argsort())
    return Rows(shared, tuple(groups), *(index.to(device) for index in indices))


def group_by_length(eos: Sequence[int], padding: int) -> list[list[int]]:
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


def _overwrite(x: Tensor, tokens: Tensor, rows: Rows, first: int) -> Tensor:
    """The n positions from ``first`` on of all prompts become ``tokens [S, n, d]``."""
    n, number = tokens.shape[1], rows.positions - first
    inside = (number >= 0) & (number < n)
    chosen = rows.samples * n + number.clamp(0, n - 1)
    return torch.where(inside[:, None], tokens.flatten(0, 1).index_select(0, chosen), x)


def _block(block: Any, x: Tensor, rows: Rows, last: bool) -> Tensor:
    """One residual block of CLIP on rows ``[N, d]``; the last one gives those of the end tokens, ``[S * K, d]``."""
    attention = block.attn
    qkv = fast_linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    attended = _attend(qkv, attention.num_heads, rows, last)
    return finish_block(block, x.index_select(0, rows.ends) if last else x, attended, fast_linear)


def _attend(qkv: Tensor, heads: int, rows: Rows, last: bool) -> Tensor:
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
