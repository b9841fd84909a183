"""Texts to token ids: OpenAI's byte pairs (:class:`Bpe`)."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from advpt.backbones.card import TextCard
from advpt.backbones.shim import import_clip
from advpt.errors import PromptError


class Tokenizer(abc.ABC):
    """Texts to the ids that a text tower reads, framed as its card says; never cuts a text.

    Args:
        card: of the text tower.
    """

    def __init__(self, card: TextCard) -> None:
        self.card = card

    @abc.abstractmethod
    def pieces(self, text: str) -> list[int]:
        """The ids of a text alone, without start and end."""

    @abc.abstractmethod
    def word(self, token: int) -> str:
        """A token in letters, without marks of the beginning or end of a word; "" where it is no text."""

    @property
    def specials(self) -> frozenset[int]:
        """Ids that are no part of a text."""
        card = self.card
        return frozenset({*card.start, *card.tail, card.pad} | ({card.end} if card.end is not None else set()))

    def class_pieces(self, name: str) -> list[int]:
        """The ids of a class name as prompts have it: underscores are spaces."""
        return self.pieces(name.replace("_", " "))

    @property
    def frame(self) -> int:
        """Positions that are not the text's own."""
        return len(self.card.start) + (self.card.end is not None) + len(self.card.tail)

    def batch(self, texts: Sequence[str]) -> Tensor:
        """Ids ``[K, context]`` int64: start, text, end, padding, tail.

        Raises:
            PromptError: a text is too long; it names the text.
        """
        card, rows = self.card, []
        end = [] if card.end is None else [card.end]
        for text in texts:
            pieces = self.pieces(text)
            needed = len(pieces) + self.frame
            if needed > card.context:
                raise PromptError(f"the prompt {text!r} has {needed} tokens; CLIP reads {card.context}. Shorten it")
            rows.append([*card.start, *pieces, *end, *[card.pad] * (card.context - needed), *card.tail])
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), card.context)

    def ends(self, ids: Tensor) -> Tensor:
        """The position ``[K]`` of the end token of ids ``[K, n]``; the last one where texts have none."""
        if self.card.end is None:
            return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)
        return (ids == self.card.end).int().argmax(-1)


class Bpe(Tokenizer):
    """OpenAI's tokenizer: byte pairs of lower-case text."""

    def pieces(self, text: str) -> list[int]:
        return list(import_clip().clip._tokenizer.encode(text))

    def word(self, token: int) -> str:
        tokenizer = import_clip().clip._tokenizer
        data = bytearray(tokenizer.byte_decoder[c] for c in tokenizer.decoder[token].replace("</w>", ""))
        return data.decode("utf-8", errors="replace")

    @property
    def specials(self) -> frozenset[int]:
        return frozenset((*self.card.start, self.card.end or 0))  # the padding of a BPE is a letter, "!"
