"""Tokenizers in files: SigLIP's, CLIPA's and CLIPS's rules on small ones that are made here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from advpt.backbones.card import TextCard
from advpt.backbones.configs import card_of, read_open_clip
from advpt.backbones.pieces import Pieces, TokenizerFile, clean
from advpt.errors import PromptError, WeightsError
from tests.helpers.open_clip import VIT, changed
from tests.helpers.tokenizer import write_bert, write_tokenizer

pytest.importorskip("tokenizers")
TEXTS = ["a photo of a cat.", "A Photo, of: a_small   DOG!", "an aerial photo of a river", "&amp;amp; dog"]
SIGLIP = {"context_length": 64, "no_causal_mask": True, "pool_type": "last", "hf_tokenizer_name": "org/repo",
          "tokenizer_kwargs": {"clean": "canonicalize"}}  # fmt: skip
CLIPA = {"context_length": 32, "no_causal_mask": True, "pool_type": "last", "hf_tokenizer_name": "bert",
         "tokenizer_kwargs": {"strip_sep_token": True}}  # fmt: skip
CLIPS = {"context_length": 32, "no_causal_mask": True, "pool_type": "last", "hf_tokenizer_name": "bert",
         "tokenizer_mode": "clips"}  # fmt: skip


def tokenizer(path: Path, text: dict[str, Any]) -> Pieces:
    file = TokenizerFile.read(path, path.with_name("tokenizer_config.json"))
    return Pieces(card_of("a name", read_open_clip(changed(VIT, text=text), "FILE"), file).text, file)


def theirs(folder: Path, text: dict[str, Any]) -> Any:
    pytest.importorskip("transformers")
    open_clip = pytest.importorskip("open_clip")
    options = {"tokenizer_mode": text.get("tokenizer_mode"), **text.get("tokenizer_kwargs", {})}
    return open_clip.tokenizer.HFTokenizer(str(folder), context_length=text["context_length"], **options)


@pytest.mark.parametrize("pad", ("</s>", "<pad>"))
def test_siglips_ids_are_open_clips(tmp_path: Path, pad: str) -> None:
    mine = tokenizer(write_tokenizer(tmp_path, pad=pad), SIGLIP)
    card = mine.card
    assert (card.start, card.end, card.pad, card.tail) == ((), 1, 1 if pad == "</s>" else 0, ())
    assert mine.batch(TEXTS).tolist() == theirs(tmp_path, SIGLIP)(TEXTS).tolist()


@pytest.mark.parametrize("text", (CLIPA, CLIPS), ids=("CLIPA", "CLIPS"))
def test_berts_ids_are_open_clips(tmp_path: Path, text: dict[str, Any]) -> None:
    mine = tokenizer(write_bert(tmp_path), text)
    assert mine.batch(TEXTS).tolist() == theirs(tmp_path, text)(TEXTS).tolist()
    if text is CLIPA:
        assert (mine.card.start, mine.card.end, mine.card.pad) == ((2,), 0, 0), "[SEP] becomes 0"
    else:
        assert mine.batch(TEXTS)[:, -1].tolist() == [2] * len(TEXTS), "[CLS] is at the last position"


def test_settings_say_whether_there_are_tokens_around_a_text(tmp_path: Path) -> None:
    """Gemma's files say so beside the file, and transformers follows them."""
    file = write_bert(tmp_path, add_bos_token=False, add_eos_token=True)
    assert tokenizer(file, SIGLIP).card.start == () and tokenizer(file, SIGLIP).card.end == 5
    file = write_bert(tmp_path, add_bos_token=True, add_eos_token=True)
    assert tokenizer(file, SIGLIP).card.start == (4,)


def test_punctuation_vanishes_and_nothing_is_cut(tmp_path: Path) -> None:
    mine = tokenizer(write_tokenizer(tmp_path), SIGLIP)
    assert mine.pieces("cat.") == mine.pieces("CAT") != []
    assert mine.pieces("...") == []
    assert mine.batch(["a " * 50]).shape == (1, 64)
    with pytest.raises(PromptError, match="has 65 tokens; CLIP reads 64"):
        mine.batch(["a " * 64])


def test_prompts_of_any_length_fill_the_context(tmp_path: Path) -> None:
    mine = tokenizer(write_tokenizer(tmp_path), SIGLIP)
    rows = mine.batch(["cat", "a small dog and a river"])
    assert rows.shape == (2, 64) and rows[:, -1].tolist() == [mine.card.pad] * 2
    assert mine.ends(rows).tolist() == [len(mine.pieces("cat")), len(mine.pieces("a small dog and a river"))]


def test_words_are_letters_and_specials_are_none(tmp_path: Path) -> None:
    mine = tokenizer(write_tokenizer(tmp_path), SIGLIP)
    assert "".join(mine.word(number) for number in mine.pieces("small dog")) == "smalldog"
    assert mine.specials == {0, 1, 2} and [mine.word(number) for number in (0, 1, 2)] == [""] * 3
    bert = tokenizer(write_bert(tmp_path / "bert"), CLIPA)
    assert bert.word(bert.pieces("cats")[1]) == "s" and bert.specials == {0, 1, 2, 3, 4, 5}


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path)
    rows = TokenizerFile.read(path, None).tokenizer.get_vocab_size()
    with pytest.raises(WeightsError, match=f"has {rows} tokens, and the model's token table has 20 rows"):
        tokenizer(path, SIGLIP | {"vocab_size": 20})
    with pytest.raises(WeightsError, match="pool_type argmax reads at the largest id"):
        tokenizer(path, SIGLIP | {"pool_type": "argmax"})
    with pytest.raises(WeightsError, match="eos_id is 2, and .* ends with 1"):
        tokenizer(path, SIGLIP | {"pool_type": "eos"})
    assert tokenizer(path, SIGLIP | {"pool_type": "eos", "eos_id": 1}).card.reads == "end"


def test_damage_and_what_is_missing_are_named(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path)
    with pytest.raises(WeightsError, match="has no pad_token: expected tokenizer_config.json"):
        TokenizerFile.read(path, None).pad()
    settings = path.with_name("tokenizer_config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": {"content": "<pad>"}}))
    assert TokenizerFile.read(path, settings).pad() == 0
    assert TokenizerFile.read(write_bert(tmp_path / "bert"), None).pad() == 0, "BERT's own settings do not name it"
    path.write_text("{")
    with pytest.raises(WeightsError, match="cannot be read as a tokenizer"):
        TokenizerFile.read(path, settings)


def test_two_paddings_are_two_readings(tmp_path: Path) -> None:
    one = tokenizer(write_tokenizer(tmp_path / "one"), SIGLIP).card
    other = tokenizer(write_tokenizer(tmp_path / "two", pad="<pad>"), SIGLIP).card
    assert one.reading() != other.reading() and one.reading() == dataclasses.replace(one, width=9).reading()
    assert TextCard().reading()["tokenizer"] == "bpe" != one.tokenizer


@pytest.mark.parametrize(
    "kind, text, cleaned",
    [
        ("canonicalize", "A_photo, of  (the) &amp;amp; DOG.", "a photo of the dog"),
        ("whitespace", " A  photo_of\tDOG. ", "A photo_of DOG."),
        ("lower", " A  photo_of DOG. ", "a photo_of dog."),
    ],
)
def test_texts_are_cleaned_as_models_were_trained(kind: str, text: str, cleaned: str) -> None:
    assert clean(text, kind) == cleaned
