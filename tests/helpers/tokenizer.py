"""Small tokenizers in files, as repositories of the hub have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXTS = ("a photo of a cat", "a photo of the small dog", "an aerial photo of a river", "texture, striped; pattern!")


def write_tokenizer(folder: Path, *, pad: str = "</s>", vocabulary: int = 60) -> Path:
    """A sentencepiece-like ``tokenizer.json`` whose texts end with ``</s>``, id 1, as SigLIP's do, and its settings."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    made.train_from_iterator(
        TEXTS * 4, trainers.UnigramTrainer(vocab_size=vocabulary, special_tokens=special, unk_token="<unk>")
    )
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _write(folder, made, {"eos_token": "</s>", "pad_token": pad, "unk_token": "<unk>"})


def write_bert(folder: Path, **settings: Any) -> Path:
    """A BERT-like ``tokenizer.json``: ``[CLS] pieces [SEP]``, padding 0."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    letters = sorted({c for text in TEXTS for c in text if c.isalpha()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[BOS]", "[EOS]"]
    words = ["photo", "cat", "dog", *letters, *(f"##{c}" for c in letters)]
    made = tokenizers.Tokenizer(models.WordPiece({w: i for i, w in enumerate([*special, *words])}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.add_special_tokens(special)
    named = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return _write(folder, made, named | {"bos_token": "[BOS]", "eos_token": "[EOS]"} | settings)


def _write(folder: Path, tokenizer: Any, settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**6} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return path
