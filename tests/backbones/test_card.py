"""What a model is: which fields change its hashes, and which path through a text tower they choose."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from advpt.backbones.card import Card, ImageCard, TextCard, digest_of_tower, openai_text
from advpt.errors import WeightsError
from advpt.files import tensor_digest

IMAGE = ImageCard((224, 224), heads=12, width=768, blocks=12, tokens=50)
TENSORS = {"weight": torch.arange(6.0)}


def test_openais_reading_leaves_the_hash_of_the_tensors() -> None:
    for card in (
        IMAGE,
        openai_text(77, 49408, 512, 12),
        ImageCard((224, 224), "", 32, kind="resnet", width=64, pool="attention"),
    ):
        assert digest_of_tower(TENSORS, card) == tensor_digest(TENSORS)


OTHER_IMAGES = (
    {"activation": "gelu"}, {"heads": 8}, {"eps": 1e-6}, {"kind": "timm"}, {"pool": "mean"}, {"norm_last": True},
    {"module": "vit_tiny_patch16_224"},    {"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)},
)  # fmt: skip
OTHER_TEXTS = (
    {"activation": "gelu"}, {"heads": 4}, {"eps": 1e-6}, {"causal": False}, {"reads": "last"}, {"start": ()},
    {"end": 1}, {"pad": 1}, {"tail": (2,)}, {"clean": "canonicalize"}, {"tokenizer": "0" * 64},
)  # fmt: skip


def test_every_other_reading_has_a_hash_of_its_own() -> None:
    other_image, other_text = dataclasses.replace(IMAGE, eps=1e-4), TextCard(eps=1e-4)
    for image, text in ((IMAGE, TextCard()), (other_image, other_text)):  # of OpenAI's reading, and of another one
        images = [image, *(dataclasses.replace(image, **other) for other in OTHER_IMAGES)]
        texts = [text, *(dataclasses.replace(text, **other) for other in OTHER_TEXTS)]
        assert len({digest_of_tower(TENSORS, card) for card in images}) == len(images)
        assert len({digest_of_tower(TENSORS, card) for card in texts}) == len(texts)
    squashed = dataclasses.replace(IMAGE, resize="squash", interpolation="bilinear")
    assert squashed.read_otherwise() is None, "preprocessing is in the keys of banks, not in the model"


@pytest.mark.parametrize(
    ("causal", "reads", "start", "shares"),
    [(True, "end", (1,), True), (True, "last", (1,), False), (False, "end", (1,), False), (False, "last", (), False),
     (True, "end", (), False)],
)  # fmt: skip
def test_which_prompts_share_their_beginning(causal: bool, reads: str, start: tuple[int, ...], shares: bool) -> None:
    assert TextCard(causal=causal, reads=reads, start=start).shares_prefix is shares


@pytest.mark.parametrize(("causal", "reads"), [(True, "first"), (False, "argmax")])
def test_a_position_that_sees_no_word_is_refused(causal: bool, reads: str) -> None:
    with pytest.raises(WeightsError, match=f"read at '{reads}'.*expected one of end, last, first"):
        TextCard(causal=causal, reads=reads)


def test_fields_are_json_values() -> None:
    card = Card("model", 64, IMAGE, TextCard())
    fields = json.loads(json.dumps(card.fields()))
    assert fields == card.fields() and fields["image"]["size"] == [224, 224] and fields["text"]["start"] == [49406]
