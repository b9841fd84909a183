"""Texts to ids: OpenAI's own, and the frames of others."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from advpt.backbones.card import TextCard
from advpt.backbones.shim import import_clip
from advpt.backbones.tokenizers import Bpe, Tokenizer
from advpt.errors import PromptError
from tests.helpers.prompts import BPE, ODD_NAMES


class Letters(Tokenizer):
    """A token for each letter."""

    def pieces(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def word(self, token: int) -> str:
        return chr(token)


SIGLIP = TextCard(context=8, vocabulary=300, causal=False, reads="last", start=(), end=1, pad=1)
CLIPS = TextCard(context=8, vocabulary=300, causal=False, reads="last", start=(2,), end=3, pad=0, tail=(9,))
CLIPA = dataclasses.replace(CLIPS, end=None, tail=())


def test_ids_are_openais() -> None:
    texts = [*ODD_NAMES, "", "a photo of a cat."]
    ids = BPE.batch(texts)
    assert torch.equal(ids, import_clip().tokenize(texts).long())
    assert torch.equal(BPE.ends(ids), ids.argmax(-1)) and BPE.specials == {49406, 49407}


@pytest.mark.parametrize(
    ("card", "row", "end", "specials"),
    [
        (SIGLIP, [97, 98, 1, 1, 1, 1, 1, 1], 2, {1}),
        (CLIPS, [2, 97, 98, 3, 0, 0, 0, 9], 3, {0, 2, 3, 9}),
        (CLIPA, [2, 97, 98, 0, 0, 0, 0, 0], 7, {0, 2}),
    ],
    ids=["SigLIP", "clips", "CLIPA"],
)
def test_a_text_is_framed_as_its_card_says(card: TextCard, row: list[int], end: int, specials: set[int]) -> None:
    tokenizer = Letters(card)
    ids = tokenizer.batch(["ab"])
    assert ids.tolist() == [row] and tokenizer.ends(ids).tolist() == [end] and tokenizer.specials == specials


@pytest.mark.parametrize(("card", "fits"), [(SIGLIP, 7), (CLIPS, 5), (CLIPA, 7)], ids=["SigLIP", "clips", "CLIPA"])
def test_no_text_is_cut(card: TextCard, fits: int) -> None:
    tokenizer = Letters(card)
    assert tokenizer.batch(["x" * fits]).shape == (1, 8)
    with pytest.raises(PromptError, match="'x+' has 9 tokens; CLIP reads 8"):
        tokenizer.batch(["short", "x" * (fits + 1)])


def test_names_of_classes_have_spaces() -> None:
    assert Bpe(TextCard()).class_pieces("great_white_shark") == BPE.pieces("great white shark")


def test_ids_are_open_clips_too() -> None:
    """500 random texts of what a keyboard has, and of letters, signs and marks beyond it."""
    open_clip = pytest.importorskip("open_clip")
    theirs, draw = open_clip.tokenizer.SimpleTokenizer(), random.Random(0)
    letters = [chr(i) for i in (*range(32, 127), *range(161, 592), *range(0x4E00, 0x4E40), *range(0x1F600, 0x1F640))]
    texts = [
        "".join(draw.choices(letters[: draw.choice((95, len(letters)))], k=draw.randint(0, 18))) for _ in range(500)
    ]
    texts = [text for text in texts if len(BPE.pieces(text)) <= 75]
    assert len(texts) > 480 and torch.equal(BPE.batch(texts), theirs(texts))
