"""Models by name, end to end on small random weights; and what a configuration leaves to its model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dassl.config import get_cfg_default
from safetensors.torch import load_file, save_file
from torch import Tensor
from yacs.config import CfgNode

from advpt.backbones import card as cards
from advpt.backbones import clip
from advpt.backbones.backbone import Backbone
from advpt.backbones.load import find_card, load_backbone, settle
from advpt.errors import ConfigError, DataError, WeightsError
from advpt.settings import BackboneSettings, extend_cfg
from tests.helpers.hub import COMMIT, hub_repository
from tests.helpers.open_clip import VIT, build, changed, write_folder
from tests.helpers.tokenizer import write_tokenizer

open_clip = pytest.importorskip("open_clip")
TEXTS = ["a photo of a cat.", "a photo of a small dog."]
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "linear", "image_size": 224}
RESNET = changed(
    VIT, vision={"layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "image_size": 64, "head_width": 64}
)


def load(name: str, weights: str | Path = "", **settings: Any) -> Backbone:
    return load_backbone(BackboneSettings(name, str(weights), **settings))


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def pixels(backbone: Backbone, n: int = 3) -> Tensor:
    return torch.rand(n, 3, *backbone.card.image.size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_equal(ours: Backbone, theirs: Any, within: float = 1e-5) -> None:
    """Features of images and texts are those of open_clip's own forward."""
    images = pixels(ours)
    mean, std = (torch.tensor(value)[:, None, None] for value in (ours.card.image.mean, ours.card.image.std))
    assert relative(ours.require_image()(images), theirs.encode_image((images - mean) / std)) <= within
    ids = ours.tokenizer.batch(TEXTS)
    assert relative(ours.text.encode_texts(TEXTS), theirs.encode_text(ids)) <= within


@pytest.mark.parametrize("config", (VIT, changed(VIT, quick_gelu=True), RESNET), ids=("gelu", "quickgelu", "resnet"))
def test_a_folder_is_a_model(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = write_folder(tmp_path / "model", config)
    made = load(f"local-dir:{folder}")
    assert_equal(made, build(config))
    assert made.source is not None
    assert made.source["kind"] == "local-dir" and made.source["file"] == "open_clip_model.safetensors"
    assert not any(str(tmp_path) in str(value) for value in made.source.values()), "records hold no paths"


def test_a_repository_of_the_cache_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = write_folder(tmp_path / "model", changed(VIT, quick_gelu=True))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub_repository(tmp_path / "cache", "org/repo", files)
    made = load("hf-hub:org/repo")
    assert made.source is not None and made.source["revision"] == COMMIT and len(str(made.source["sha256"])) == 64
    other = load(f"local-dir:{folder}")
    assert (made.image_digest, made.text_digest) == (other.image_digest, other.text_digest)
    hub_repository(tmp_path / "cache", "org/empty", {"open_clip_config.json": files["open_clip_config.json"]})
    with pytest.raises(WeightsError, match="hf-hub:org/empty: open_clip_model.safetensors or"):
        load("hf-hub:org/empty")


def test_a_folder_of_transformers_is_a_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**text, "image_size": 32, "patch_size": 8}, projection_dim=48
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = transformers.CLIPModel(config).eval()
    for folder, size in ((tmp_path / "one", "5GB"), (tmp_path / "shards", "5MB")):
        theirs.save_pretrained(folder, max_shard_size=size)
        made = load(f"local-dir:{folder}")
        with torch.no_grad():
            ids = made.tokenizer.batch(TEXTS)
            wanted = theirs.text_projection(theirs.text_model(ids).pooler_output)
            assert relative(made.text.encode_texts(TEXTS), wanted) <= 5e-6
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1


def test_siglip_like_models_have_their_own_tokenizer_and_bias(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    config = changed(
        VIT,
        vision=TIMM,
        text={
            "context_length": 32, "vocab_size": 64, "hf_tokenizer_name": "org/x", "no_causal_mask": True,
            "tokenizer_kwargs": {"clean": "canonicalize"}, "pool_type": "last", "proj_bias": True,
        },
        custom_text=True,
        init_logit_bias=-10,
    )  # fmt: skip
    folder = write_folder(tmp_path / "model", config, resize_mode="squash", mean=[0.5] * 3, std=[0.5] * 3)
    write_tokenizer(folder)
    made = load(f"local-dir:{folder}")
    assert_equal(made, build(config))
    assert made.logit_bias == -10 and made.card.head == "sigmoid" and made.card.image.resize == "squash"
    assert made.tokenizer.batch(TEXTS).shape == (2, 32) and made.card.text.tokenizer not in ("", "bpe")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="expected tokenizer.json in"):
        load(f"local-dir:{folder}")


def test_the_four_readings_of_one_file_have_four_digests(tmp_path: Path) -> None:
    quick = changed(VIT, quick_gelu=True, vision={"head_width": 64})
    readings = {
        "usual": (quick, {}),
        "gelu": (changed(quick, quick_gelu=False), {}),
        "mean": (quick, {"mean": [0.5, 0.5, 0.5]}),
        "heads": (changed(quick, vision={"head_width": 32}), {}),
    }
    weights = write_folder(tmp_path / "weights", quick) / "open_clip_model.safetensors"
    made = {}
    for name, (config, more) in readings.items():
        folder = write_folder(tmp_path / name, config, **more)
        (folder / weights.name).write_bytes(weights.read_bytes())
        made[name] = load(f"local-dir:{folder}")
    assert len({each.image_digest for each in made.values()}) == 4
    half = {name: value.half() for name, value in load_file(weights).items()}
    for name, state in (("usual", half), ("float", {k: v.float() for k, v in half.items()})):
        folder = write_folder(tmp_path / name, quick)
        torch.save(state, folder / "open_clip_pytorch_model.bin")
        (folder / weights.name).unlink()
    assert load(f"local-dir:{tmp_path / 'usual'}").image_digest == load(f"local-dir:{tmp_path / 'float'}").image_digest


def test_openais_reading_has_openais_digest_whatever_the_code(tmp_path: Path) -> None:
    """Banks of one model are shared by name and digest: both codes call the same network the same."""
    arch = clip.Architecture(32, 32, 2, 64, 8, 77, 49408, 64, 2)
    with torch.random.fork_rng(devices=[]):
        openai = clip.build(arch).float()
    config = changed(VIT, quick_gelu=True, vision={"head_width": 64}, text={"heads": 1})
    folder = write_folder(tmp_path / "model", config)
    save_file({k: v.contiguous() for k, v in openai.state_dict().items()}, folder / "open_clip_model.safetensors")
    ours, theirs = clip.from_state("tiny", openai.state_dict(), "memory"), load(f"local-dir:{folder}")
    assert (ours.image_digest, ours.text_digest) == (theirs.image_digest, theirs.text_digest)
    assert theirs.reads is None
    assert relative(theirs.require_image()(pixels(ours)), ours.require_image()(pixels(ours))) <= 1e-5


@pytest.mark.slow
def test_a_random_vit_b_32_under_openais_name(tmp_path: Path) -> None:
    theirs = build(open_clip.get_model_config("ViT-B-32"))
    torch.save(theirs.state_dict(), tmp_path / "b32.pt")
    with pytest.raises(WeightsError, match=r"MODEL.ACTIVATION quickgelu \(or gelu\)"):
        load("ViT-B/32", tmp_path / "b32.pt")
    assert_equal(load("ViT-B/32", tmp_path / "b32.pt", activation="gelu"), theirs)
    quick = build(open_clip.get_model_config("ViT-B-32-quickgelu"))
    quick.load_state_dict(theirs.state_dict())
    assert_equal(load("ViT-B/32", tmp_path / "b32.pt", activation="quickgelu"), quick)
    assert_equal(load("open_clip:ViT-B-32", tmp_path / "b32.pt"), theirs)


def test_a_file_takes_the_place_of_a_models_own_weights(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", VIT)
    other = build(VIT, seed=9)
    torch.save({"state_dict": {f"module.{k}": v for k, v in other.state_dict().items()}}, tmp_path / "other.pt")
    made = load(f"local-dir:{folder}", tmp_path / "other.pt")
    assert_equal(made, other)
    state = {name: value.contiguous() for name, value in other.state_dict().items()}
    save_file(state, tmp_path / "quick.safetensors", metadata={"activation": "quickgelu"})
    with pytest.raises(WeightsError, match="quick.safetensors has quickgelu, and local-dir:.* gelu"):
        load(f"local-dir:{folder}", tmp_path / "quick.safetensors")
    with pytest.raises(WeightsError, match="open_clip:ViT-B-32 is an architecture without weights"):
        load("open_clip:ViT-B-32")


def test_a_text_tower_of_openais_without_an_activation_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fare2-clip is made of OpenAI's ViT-L/14: a configuration that lacks quick_gelu would mean gelu."""
    config = changed(VIT, text={"heads": 1})
    folder = write_folder(tmp_path / "model", config)
    monkeypatch.setenv("ADVPT_CLIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    arch = clip.Architecture(32, 32, 2, 64, 8, 77, 49408, 64, 2)
    monkeypatch.setattr(clip, "OFFICIAL", {"RN50": arch})
    name = clip.official_file("RN50")[0].rsplit("/", 1)[-1]
    state = load_file(folder / "open_clip_model.safetensors")
    torch.save(state, tmp_path / "cache" / name)
    with pytest.raises(WeightsError, match="its text tower is that of OpenAI's RN50.*MODEL.ACTIVATION quickgelu"):
        load(f"local-dir:{folder}")
    assert load(f"local-dir:{folder}", activation="gelu").card.text.activation == "gelu"
    torch.save(state | {"token_embedding.weight": state["token_embedding.weight"] + 1}, tmp_path / "cache" / name)
    assert load(f"local-dir:{folder}").card.text.activation == "gelu"


def test_a_robust_tower_stands_in_a_base_of_its_activation(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", VIT)
    visual = {k.removeprefix("visual."): v for k, v in build(VIT, seed=5).state_dict().items() if "visual." in k}
    torch.save(visual, tmp_path / "tower.pt")
    base = BackboneSettings(f"local-dir:{folder}", image_weights=str(tmp_path / "tower.pt"))
    with pytest.raises(WeightsError, match="MODEL.IMAGE_ACTIVATION is 'quickgelu', and local-dir:.* has gelu"):
        load_backbone(base)
    made = load_backbone(dataclasses.replace(base, image_activation="gelu"))
    assert made.text_digest == load(base.name).text_digest and made.image_digest != load(base.name).image_digest
    with torch.no_grad():
        theirs = build(VIT, seed=5)
        mean, std = (torch.tensor(value)[:, None, None] for value in (cards.CLIP_MEAN, cards.CLIP_STD))
        wanted = theirs.encode_image((pixels(made) - mean) / std)
    assert relative(made.require_image()(pixels(made)), wanted) <= 1e-5


# --- what a configuration leaves to its model -------------------------------------------------------------------


def configuration(name: str, *, size: tuple[int, int] = (0, 0), interpolation: str = "", resize: str = "") -> CfgNode:
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.INPUT.SIZE = name, size
    cfg.INPUT.INTERPOLATION, cfg.INPUT.RESIZE = interpolation, resize
    return cfg


def pixels_of(cfg: CfgNode) -> tuple[Any, ...]:
    return tuple(cfg.INPUT.SIZE), cfg.INPUT.INTERPOLATION, cfg.INPUT.RESIZE


@pytest.mark.parametrize("frozen", (False, True))
def test_settle_fills_what_is_left_to_the_model(frozen: bool) -> None:
    cfg = configuration("open_clip:ViT-H-14/dfn5b")
    if frozen:
        cfg.freeze()
    settle(cfg)
    assert pixels_of(cfg) == ((224, 224), "bicubic", "squash") and cfg.is_frozen() == frozen
    assert cfg.MODEL.BACKBONE.NAME == "open_clip:ViT-H-14-quickgelu/dfn5b"
    settle(cfg)
    assert pixels_of(cfg) == ((224, 224), "bicubic", "squash")


def test_settle_leaves_openais_as_they_are() -> None:
    cfg = configuration("ViT-L/14@336px")
    settle(cfg)
    assert pixels_of(cfg) == ((336, 336), "bicubic", "")
    cfg = configuration("ViT-B/16", size=(224, 224), interpolation="bilinear")
    settle(cfg)
    assert pixels_of(cfg) == ((224, 224), "bilinear", ""), "as the host has it"
    with pytest.raises(ConfigError, match="nothing is known of 'mine'"):
        settle(configuration("mine"))


@pytest.mark.parametrize(
    "given, part",
    [
        ({"resize": "shortest"}, "INPUT.RESIZE is 'shortest'"),
        ({"size": (336, 336)}, r"INPUT.SIZE is \(336, 336\)"),
        ({"interpolation": "bilinear"}, "INPUT.INTERPOLATION is 'bilinear'"),
    ],
)
def test_preprocessing_that_is_not_the_models_is_an_error_with_the_three_settings(
    given: dict[str, Any], part: str
) -> None:
    with pytest.raises(DataError, match=part) as error:
        settle(configuration("open_clip:ViT-H-14/dfn5b", **given))
    assert 'INPUT.SIZE "(224,224)" INPUT.INTERPOLATION bicubic INPUT.RESIZE squash' in str(error.value)


def test_cards_are_known_by_name_alone(tmp_path: Path) -> None:
    card = find_card("open_clip:ViT-B-16/openai")
    assert card is not None and card.name == "ViT-B/16" and card.image.activation == "quickgelu"
    assert find_card("mine") is None
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": VIT}))
    assert find_card(f"local-dir:{tmp_path}") is not None
