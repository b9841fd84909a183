"""Strict reading of open_clip's and transformers' configurations."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from advpt.backbones.card import CLIP_MEAN, Card
from advpt.backbones.configs import card_of, read_open_clip, read_transformers
from advpt.errors import WeightsError
from tests.helpers.open_clip import PREPROCESS, VIT, changed

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


def read(model: Any, **pixels: Any) -> Card:
    return card_of("a name", read_open_clip({"model_cfg": model, "preprocess_cfg": PREPROCESS | pixels}, "FILE"))


def test_a_card_has_what_no_tensor_shows() -> None:
    card = read(changed(VIT, vision={"norm_kwargs": {"eps": 1e-6}}))
    image, text = card.image, card.text
    assert (image.size, image.activation, image.heads, image.eps) == ((32, 32), "gelu", 2, 1e-6)
    assert (image.kind, image.tokens, image.pool, image.prompts) == ("vit", 17, "class", True)
    assert (text.activation, text.causal, text.reads, text.tokenizer) == ("gelu", True, "end", "bpe")
    assert text.shares_prefix and card.head == "softmax" and card.embed_dim == 32


@pytest.mark.parametrize(
    "value, activation",
    [
        (True, "quickgelu"),
        ("TRUE", "quickgelu"),
        ("true", "quickgelu"),
        (False, "gelu"),
        ("FALSE", "gelu"),
        ("false", "gelu"),
        (None, "gelu"),
    ],
)
def test_quick_gelu_is_what_it_says(value: Any, activation: str) -> None:
    assert read(changed(VIT, quick_gelu=value)).image.activation == activation
    declared = read_open_clip(changed(VIT, quick_gelu=value), "FILE").activation
    assert declared == ("" if value is None else activation)


@pytest.mark.parametrize("value", (1, 0, "yes", "", [], 1.0))
def test_any_other_quick_gelu_is_refused(value: Any) -> None:
    with pytest.raises(WeightsError, match="quick_gelu is .* expected true or false"):
        read(changed(VIT, quick_gelu=value))


def test_flat_configurations_are_read_and_empty_ones_refused() -> None:
    assert card_of("a name", read_open_clip({**VIT, "preprocess_cfg": PREPROCESS}, "FILE")) == read(VIT)
    for empty in ({"model_cfg": None, "preprocess_cfg": PREPROCESS}, {"preprocess_cfg": PREPROCESS}, {}):
        with pytest.raises(WeightsError, match="FILE describes no model"):
            read_open_clip(empty, "FILE")


def test_preprocessing_that_is_absent_is_openais_and_said_so() -> None:
    partial = read_open_clip({"model_cfg": VIT, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}, "FILE").pixels
    assert partial.mean == (0.5,) * 3 and partial.defaults == ("std", "interpolation", "resize_mode")
    assert read_open_clip({"model_cfg": VIT}, "FILE").pixels.mean == CLIP_MEAN
    assert read(VIT, resize_mode="squash", interpolation="bilinear").image.resize == "squash"


@pytest.mark.parametrize(
    "pixels",
    [
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, 2]},
        {"std": "half"},
        {"interpolation": "random"},
        {"resize_mode": "longest"},
        {"size": 48},
        {"size": [32, 48]},
        {"mode": "L", "gamma": 2},
    ],
)
def test_preprocessing_that_is_not_ours_is_refused(pixels: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=f"{next(reversed(pixels))}|pixels"):
        read(VIT, **pixels)


def test_what_only_training_has_is_switched_off_and_paths_are_ignored() -> None:
    training = {"patch_dropout": 0.5, "output_tokens": False}
    card = read(changed(VIT, vision=training, text={"vocab_path": "/etc/passwd"}))
    assert card == read(VIT) and "passwd" not in card.config


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"multimodal_cfg": {}}, "is a CoCa"),
        ({"vision": {"attentional_pool": True}}, "attentional_pool"),
        ({"text": {"embed_cls": True}}, "embed_cls"),
        ({"text": {"hf_model_name": "roberta-base"}}, "roberta-base of transformers"),
        ({"vision": {"block_type": "custom"}}, "block_type asks for other residual blocks"),
        ({"text": {"qk_norm": True}}, "qk_norm asks for other residual blocks"),
        ({"vision": {"scale_heads": "false"}}, "scale_heads"),
        ({"vision": {"image_size": [32, 48]}}, "only square images"),
        ({"vision": {"no_such_thing": 1}}, "FILE: vision_cfg has no_such_thing"),
        ({"text": {"auto_map": "x"}}, "FILE: text_cfg has auto_map"),
        ({"trust_remote_code": True}, "FILE has trust_remote_code"),
        ({"text": {"tokenizer_kwargs": {"trust_remote_code": True}}}, "tokenizer_kwargs has trust_remote_code"),
        ({"text": {"tokenizer_kwargs": {"clean": "canonicalize"}}}, "clean is 'canonicalize'; expected one of lower"),
        ({"vision": {"width": 60}}, "a width of 60 in heads of 32"),
        ({"vision": {"patch_size": 7}}, "pixels in patches of 7"),
        ({"vision": {"pool_type": "none"}}, "pool_type is 'none'"),
        ({"text": {"pool_type": "first"}}, "causal text tower is read at 'first'"),
        ({"text": {"heads": 3}}, "cannot have 3 heads"),
        ({"text": {"vocab_size": 1000}}, "a token table of 1000 rows and no hf_tokenizer_name"),
        ({"text": {"act_kwargs": {"approximate": "tanh"}}, "quick_gelu": True}, "quickgelu has no other form"),
        ({"text": {"layers": "12"}}, "layers is '12'"),
        ({"embed_dim": True}, "embed_dim is True"),
        ({"text": 3}, "not a mapping|text_cfg is int"),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_name(parts: dict[str, Any], message: str) -> None:
    config = {**VIT, "text_cfg": 3} if parts == {"text": 3} else changed(VIT, **parts)
    with pytest.raises(WeightsError, match=message):
        read(config)


ODD: tuple[Any, ...] = (None, True, "", "text", 0, -1, 3, 0.5, [], [1], {}, {"a": 1}, float("inf"))


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_are_read_or_refused_and_never_an_error_of_another_kind(value: Any) -> None:
    keys = [
        ("", key) for key in ("embed_dim", "quick_gelu", "custom_text", "vision_cfg", "text_cfg", "init_logit_bias")
    ]
    keys += [("vision_cfg", key) for key in ("layers", "width", "head_width", "patch_size", "image_size", "pool_type",
             "norm_kwargs", "act_kwargs", "final_ln_after_pool", "timm_model_name", "timm_pool")]  # fmt: skip
    keys += [("text_cfg", key) for key in ("context_length", "vocab_size", "width", "heads", "layers", "pool_type",
             "no_causal_mask", "norm_kwargs", "tokenizer_kwargs", "tokenizer_mode", "hf_tokenizer_name")]  # fmt: skip
    keys += [("preprocess_cfg", key) for key in PREPROCESS]
    for part, key in keys:
        whole = changed(VIT) | {"preprocess_cfg": dict(PREPROCESS)}
        (whole[part] if part else whole)[key] = value
        with contextlib.suppress(WeightsError):
            card_of("a name", read_open_clip(whole, "FILE"))
    for config in ({"text_config": value}, {"projection_dim": value}, {"vision_config": {"image_size": value}}):
        with contextlib.suppress(WeightsError):
            read_transformers({"model_type": "clip", **config}, {}, "FILE")
    for key in ("size", "crop_size", "resample", "image_mean", "image_std", "do_resize", "do_center_crop"):
        with contextlib.suppress(WeightsError):
            read_transformers({"model_type": "clip"}, {key: value}, "FILE")


@needs_timm
@pytest.mark.parametrize("name", ("hf-hub:org/repo", "local-dir:/tmp", "no_such_tower", "../x", 3))
def test_a_tower_of_timm_is_one_of_timms_own(name: Any) -> None:
    with pytest.raises(WeightsError, match="timm_model_name is .*expected one of timm's own models"):
        read(changed(VIT, vision={"timm_model_name": name}))


@needs_timm
def test_towers_of_timm_are_asked_what_they_are() -> None:
    def card(name: str, size: int, **more: Any) -> Any:
        return read(changed(VIT, vision={"timm_model_name": name, "image_size": size, **more})).image

    siglip = card("vit_base_patch16_siglip_224", 224, timm_pool="map", timm_proj="none")
    assert (siglip.kind, siglip.width, siglip.blocks, siglip.tokens, siglip.heads) == ("timm", 768, 12, 196, 12)
    assert siglip.pool == "map" and siglip.eps == 1e-6 and siglip.prompts
    absent, empty = (card("vit_base_patch16_siglip_224", 224, **more) for more in ({}, {"timm_pool": ""}))
    assert (absent.pool, empty.pool) == ("mean", "map"), "open_clip's default, timm's own"
    for name, family in (
        ("convnext_tiny", "ConvNeXt"),
        ("fastvit_mci0", "FastViT"),
        ("vitamin_small_224", "ViTamin"),
        ("eva02_base_patch16_clip_224", "ViT with rotary positions"),
        ("vit_relpos_medium_patch16_cls_224", "ViT with relative positions"),
    ):
        assert (card(name, 224).family, card(name, 224).prompts) == (family, False)
    one, other = card("convnext_tiny", 224), card("convnext_tiny_hnf", 224)
    assert one.reading() != other.reading(), "the same tensors, another place of the last norm"
    with pytest.raises(WeightsError, match="image_size is 256, and vit_base_patch16_siglip_224 reads 224"):
        card("vit_base_patch16_siglip_224", 256)


@pytest.mark.slow
def test_the_families_of_open_clip_are_counted() -> None:
    open_clip = pytest.importorskip("open_clip")
    shared = plain = refused = 0
    for path in sorted((Path(open_clip.__file__).parent / "model_configs").glob("*.json")):
        try:
            card = card_of(path.stem, read_open_clip(json.loads(path.read_text()), path.stem))
        except WeightsError as error:
            assert "of transformers" in str(error) or "CoCa" in str(error)
            refused += 1
        else:
            causal = card.text.causal and card.text.reads == "end"
            shared, plain = shared + causal, plain + (not causal)
    if open_clip.__version__.startswith("3.3."):
        assert (shared, plain, refused) == (92, 39, 13)


def test_transformers_configurations() -> None:
    read_transformers({"model_type": "clip"}, {"image_mean": [0.5, 0.5, 0.5], "resample": 2}, "FILE")
    for config, part in (
        ({"model_type": "siglip"}, "model_type 'siglip'"),
        ({}, "model_type None"),
        ({"model_type": "clip", "text_config": {"hidden_act": "relu"}}, "hidden_act is 'relu'"),
        ({"model_type": "clip", "text_config": {"hidden_act": "gelu"}}, "expected one activation"),
    ):
        with pytest.raises(WeightsError, match=part):
            read_transformers(config, {}, "FILE")
    for processor, part in (
        ({"resample": 0}, "resample is 0"),
        ({"resample": [3]}, "resample is"),
        ({"do_center_crop": False}, "do_center_crop is False"),
        ({"do_normalize": False}, "do_normalize is False; expected true"),
        ({"size": {"shortest_edge": 256}, "crop_size": 224}, "size is {'shortest_edge': 256}; expected 224"),
        ({"size": {"height": 224, "width": 336}}, "expected 224, the pixels that the image tower reads"),
        ({"size": 224, "crop_size": {"height": 196, "width": 196}}, "crop_size is"),
    ):
        with pytest.raises(WeightsError, match=part):
            read_transformers({"model_type": "clip"}, processor, "FILE")
    both = {"size": {"height": 224, "width": 224}, "do_center_crop": False}
    assert read_transformers({"model_type": "clip"}, both, "FILE").pixels.resize == "squash"
    assert (
        read_transformers({"model_type": "clip"}, {"size": {"shortest_edge": 224}}, "FILE").pixels.resize == "shortest"
    )
