"""Nearest words: which tokens of the vocabulary lie closest to learned context vectors (AdvPT, Table 5; first in CoOp).

Euclidean distance in float32 between a context vector and the rows of the token table of the same backbone. The paper
lists five words per data set without their rule; both readings are given: the words nearest to each vector,
and the five nearest of all (each vector's nearest word, the five smallest distances). Near-zero vectors are close to
any small token, so the untrained vectors stand beside the trained ones.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from advpt.backbones.tokenizers import Tokenizer
from advpt.errors import PromptError

LATIN = re.compile(r"[\x21-\x7e\u00a1-\u024f]+")


def word(tokenizer: Tokenizer, token: int) -> str:
    """A token in letters; ``N/A`` where it is not in Latin letters, digits or signs."""
    text = tokenizer.word(token)
    return text if LATIN.fullmatch(text) else "N/A"


def searched(tokenizer: Tokenizer, table: Tensor, only: Sequence[int] | None) -> Tensor:
    """The ids that are compared: those of ``only`` (None: all), no special ones."""
    ids = set(range(len(table))) if only is None else {token for token in only if token < len(table)}
    return torch.tensor(sorted(ids - tokenizer.specials), dtype=torch.int64)


def nearest(
    tokenizer: Tokenizer, vectors: Tensor, table: Tensor, k: int, only: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest tokens of each vector.

    Args:
        vectors: ``[M, d]`` context. table: ``[V, d]`` token embeddings.
        only: token ids to search, None for all.

    Returns:
        ids ``[M, k]`` int64 and distances ``[M, k]`` float32, nearest first.

    Raises:
        PromptError: vectors of another width than the table's: it belongs to another backbone.
    """
    if vectors.dim() != 2 or vectors.shape[1] != table.shape[1]:
        raise PromptError(
            f"context of shape {list(vectors.shape)} cannot be compared with a token table of width {table.shape[1]}: "
            "shared context of the same backbone is needed"
        )
    allowed = searched(tokenizer, table, only)
    k = min(k, len(allowed))
    distances = torch.cdist(
        vectors.float().cpu(), table.float().cpu()[allowed], compute_mode="donot_use_mm_for_euclid_dist"
    )
    smallest = distances.topk(k, dim=1, largest=False)
    return allowed[smallest.indices], smallest.values


def describe(
    tokenizer: Tokenizer, vectors: Tensor, table: Tensor, k: int, only: Sequence[int] | None = None
) -> dict[str, Any]:
    """Both readings, for a record: ``per_vector`` (for each vector ``k`` pairs of word and distance) and ``overall``
    (each vector's nearest word, the ``k`` smallest distances, a word once); ``searched``: the number of tokens
    compared."""
    ids, distances = nearest(tokenizer, vectors, table, k, only)
    per_vector = [
        [[word(tokenizer, token), round(distance, 4)] for token, distance in zip(*pair)]
        for pair in zip(ids.tolist(), distances.tolist())
    ]
    overall: dict[int, float] = {}
    for distance, token in sorted(zip(distances[:, 0].tolist(), ids[:, 0].tolist())):
        overall.setdefault(token, distance)
    best = [[word(tokenizer, token), round(distance, 4)] for token, distance in list(overall.items())[:k]]
    return {"per_vector": per_vector, "overall": best, "searched": len(searched(tokenizer, table, only))}
