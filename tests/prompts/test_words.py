"""Nearest words against a brute-force search, and how tokens are written."""

from __future__ import annotations

import pytest
import torch

from advpt.backbones.card import TextCard
from advpt.backbones.pieces import Pieces, TokenizerFile
from advpt.backbones.shim import import_clip
from advpt.errors import PromptError
from advpt.prompts.words import describe, nearest, word
from tests.helpers.prompts import BPE
from tests.helpers.tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def table():
    return torch.randn(49408, 6, generator=torch.Generator().manual_seed(0))


def brute(vector, table, allowed, k):
    found = sorted((float(((vector - table[i]) ** 2).sum().sqrt()), i) for i in allowed)
    return found[:k]


def test_against_brute_force(table):
    vectors = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    only = list(range(0, 3000, 7))
    ids, distances = nearest(BPE, vectors, table, 4, only)
    for vector, row, far in zip(vectors, ids, distances):
        expected = brute(vector, table, only, 4)
        assert row.tolist() == [i for _, i in expected]
        assert far.tolist() == pytest.approx([d for d, _ in expected], abs=1e-5)
    every, _ = nearest(BPE, vectors[:1], table, 2)
    assert every[0].tolist() == [i for _, i in brute(vectors[0], table, range(49406), 2)]


def test_start_and_end_are_no_words(table):
    near_end = table[[49406, 49407]]
    ids, distances = nearest(BPE, near_end, table, 1)
    assert not set(ids.flatten().tolist()) & {49406, 49407} and (distances > 0).all()


def test_both_readings(table):
    tokenizer = import_clip().clip._tokenizer
    cat, dog = tokenizer.encode("cat dog")
    vectors = torch.stack([table[cat] + 0.01, table[dog], table[cat] + 0.02])
    found = describe(BPE, vectors, table, 2)
    assert [pair[0][0] for pair in found["per_vector"]] == ["cat", "dog", "cat"]
    assert [w for w, _ in found["overall"]] == ["dog", "cat"], "a word once, at its smallest distance"
    assert found["overall"][0][1] == 0.0 and found["searched"] == 49406
    assert describe(BPE, vectors, table, 2, [cat, dog, 49407])["searched"] == 2


def test_tokens_are_written_as_words_and_others_as_not_available():
    tokenizer = import_clip().clip._tokenizer
    assert word(BPE, tokenizer.encode("photo")[0]) == "photo"
    japanese = tokenizer.encode("日")
    assert word(BPE, japanese[0]) == "N/A"
    assert word(BPE, tokenizer.encode("café")[-1]) == "café"


def test_pieces_of_other_tokenizers_are_words_and_their_special_tokens_none(tmp_path):
    pytest.importorskip("tokenizers")
    file = TokenizerFile.read(write_tokenizer(tmp_path), tmp_path / "tokenizer_config.json")
    tokenizer = Pieces(TextCard(vocabulary=60, start=(), end=1, pad=1, clean="canonicalize"), file)
    rows = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    (begins,) = (i for i in range(60) if file.tokenizer.id_to_token(i) == "\u2581p")
    assert word(tokenizer, begins) == "p" and word(tokenizer, 1) == "N/A"
    made = describe(tokenizer, rows[[begins, 0, 1, 2]], rows, 3)
    assert made["per_vector"][0][0] == ["p", 0.0]
    assert made["searched"] == 60 - len(tokenizer.specials) and tokenizer.specials >= {0, 1}
    ids, _ = nearest(tokenizer, rows[:3], rows, 60)
    assert not tokenizer.specials & set(ids.flatten().tolist())


def test_another_backbones_table_is_refused(table):
    with pytest.raises(PromptError, match="same backbone"):
        nearest(BPE, torch.zeros(2, 5), table, 1)
    with pytest.raises(PromptError, match="shared context"):
        nearest(BPE, torch.zeros(3, 2, 6), table, 1)
