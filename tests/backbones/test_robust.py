"""Robust image towers: the published formats load strictly, and what does not belong is refused with a reason."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from advpt.backbones import card as cards
from advpt.backbones import tuned_tower
from advpt.backbones.card import digest_of_tower
from advpt.backbones.clip import Architecture, build
from advpt.backbones.load import load_backbone
from advpt.backbones.tuned_tower import Base, Provenance
from advpt.errors import ConfigError, WeightsError
from advpt.files import file_digest
from advpt.settings import BackboneSettings
from tests.helpers.open_clip import PREPROCESS, VIT, changed

State = dict[str, Tensor]
OTHER = Architecture(64, 32, 2, 128, 8, 77, 49408, 64, 2)
PROMPTER = {"pad_up": torch.rand(1, 3, 4, 32), "pad_down": torch.rand(1, 3, 4, 32)}


def tower(seed: int = 1, arch: Architecture | None = None, base: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A tower of the test suite's CLIP (or of ``arch``) with other values."""
    if arch is not None:
        return dict(build(arch).visual.state_dict())
    generator = torch.Generator().manual_seed(seed)
    visual = {k.removeprefix("visual."): v for k, v in (base or {}).items() if k.startswith("visual.")}
    return {k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in visual.items()}


FORMATS = {
    "bare": lambda t: t,
    "tecoa": lambda t: {"epoch": 3, "best_acc1": 0.5, "vision_encoder_state_dict": t, "optimizer": {}},
    "state_dict": lambda t: {"state_dict": t, "epoch": 1},
    "parallel": lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}},
    "visual": lambda t: {f"module.visual.{k}": v for k, v in t.items()},
    "half": lambda t: {k: v.half() for k, v in t.items()},
}


@pytest.mark.parametrize("form", FORMATS)
def test_formats(form: str, tiny_state: dict[str, Tensor], tiny_weights: Path, tmp_path: Path) -> None:
    mine, path = tower(base=tiny_state), tmp_path / "tower.pth.tar"
    torch.save(FORMATS[form](mine), path)
    plain = BackboneSettings("tiny", str(tiny_weights), False, activation="quickgelu")
    made, usual = load_backbone(dataclasses.replace(plain, image_weights=str(path))), load_backbone(plain)
    for name, value in made.model.visual.state_dict().items():
        assert torch.equal(value, mine[name].half().float() if form == "half" else mine[name])
    assert made.image_digest != usual.image_digest and made.text_digest == usual.text_digest
    assert made.image_file == {"sha256": file_digest(path), "activation": "quickgelu"} and usual.image_file is None
    assert not any(p.requires_grad for p in made.model.parameters())


def test_a_whole_clip_gives_its_tower_if_its_text_is_ours(
    tiny_state: dict[str, Tensor], tiny_weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "whole.pt"
    settings = BackboneSettings("tiny", str(tiny_weights), False, str(path), activation="quickgelu")
    visual = {f"visual.{k}": v for k, v in tower(base=tiny_state).items()}
    torch.save(tiny_state | visual, path)
    assert torch.equal(load_backbone(settings).model.visual.proj, visual["visual.proj"])
    torch.save(tiny_state | visual | {"ln_final.weight": tiny_state["ln_final.weight"] + 1}, path)
    with pytest.raises(WeightsError, match="text tower is not that of tiny.*another activation"):
        load_backbone(settings)


@pytest.fixture
def settings(tiny_weights: Path, tmp_path: Path) -> BackboneSettings:
    """The test suite's CLIP, quickgelu, with ``tower.pt`` in it."""
    return BackboneSettings("tiny", str(tiny_weights), False, str(tmp_path / "tower.pt"), activation="quickgelu")


def spoiled(tensors: State, name: str, value: float) -> State:
    made = tensors[name].clone()
    made.view(-1)[-1] = value
    return tensors | {name: made}


LARGER_PATCH = dataclasses.replace(OTHER, embed_dim=64, vision_width=64, resolution=64, patch=16)
LARGER_IMAGE = dataclasses.replace(OTHER, embed_dim=64, vision_width=64, resolution=48)
SPOILED: dict[str, tuple[Callable[[State], Any], str]] = {
    "another width": (lambda t: tower(arch=OTHER), r"conv1.weight has shape \[128.*trained from"),
    "another patch size": (
        lambda t: tower(arch=LARGER_PATCH),
        r"conv1.weight has shape \[64, 3, 16, 16\], expected \[64, 3, 8, 8\] .patches of 16 pixels, and of 8.",
    ),
    "another size of images": (
        lambda t: tower(arch=LARGER_IMAGE),
        r"positional_embedding has shape \[37, 64\], expected \[17, 64\] .images of 37 tokens, and of 17: another size",
    ),
    "another depth": (lambda t: tower(arch=dataclasses.replace(OTHER, vision_layers=3)), "12 are unknown .the first"),
    "another shape": (lambda t: t | {"proj": t["proj"][:-1]}, r"proj has shape \[63, 64\], expected \[64, 64\]; name"),
    "missing": (lambda t: {k: v for k, v in t.items() if k != "proj"}, r"1 of \d+ tensors are missing .*is proj"),
    "one too many": (lambda t: t | {"head": torch.zeros(1)}, "0 of .* are missing, 1 are unknown .the first is head"),
    "one too many in a whole CLIP": (
        lambda t: {f"visual.{k}": v for k, v in t.items()} | {"head.weight": torch.zeros(1)},
        "1 are unknown .the first is head.weight",
    ),
    "NaN": (lambda t: spoiled(t, "ln_post.bias", float("nan")), "damaged: ln_post.bias is not finite; compare its"),
    "infinite": (lambda t: spoiled(t, "proj", float("inf")), "damaged: proj is not finite"),
    "whole numbers": (lambda t: t | {"proj": t["proj"].char()}, "proj is torch.int8, expected torch.float32"),
    "Delta-CLIP": (
        lambda t: {k: v for k, v in t.items() if "ln_pre" not in k},
        "no norm in front of its blocks .ln_pre., as CLIPA's architecture .Delta-CLIP. has none.*whole model: "
        "MODEL.BACKBONE.NAME hf-hub:zw123",
    ),
    "no state dict": (lambda t: [1, 2], "holds no state dict of tensors; expected a robust image tower. TeCoA"),
    "part of a tower": (
        lambda t: {"partial_state_dict": {f"visual.{k}": v for k, v in t.items() if "resblocks.1" in k}},
        "20 of 32 tensors are missing .the first is class_embedding",
    ),
    "a prompter": (lambda t: {"state_dict": PROMPTER}, "holds a visual prompter .pad_down, pad_up., .* no image tower"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILED)
def test_what_does_not_fit_is_refused(kind: str, settings: BackboneSettings, tiny_state: State, tmp_path: Path) -> None:
    spoil, reason = SPOILED[kind]
    torch.save(spoil(tower(base=tiny_state)), tmp_path / "tower.pt")
    with pytest.raises(WeightsError, match=reason):
        load_backbone(settings)


def test_a_file_that_is_not_there_is_refused_before_anything_is_loaded(settings: BackboneSettings) -> None:
    with pytest.raises(WeightsError, match="there is no such file. Where they come from: TeCoA"):
        load_backbone(dataclasses.replace(settings, weights="none.pt"))


def test_the_tower_wins_over_the_prompter_beside_it(
    settings: BackboneSettings, tiny_state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """TeCoA's checkpoints hold both; where the prompter was trained, the tower is CLIP's own."""
    mine, path = tower(base=tiny_state), tmp_path / "tower.pt"
    torch.save({"state_dict": PROMPTER, "vision_encoder_state_dict": mine}, path)
    assert torch.equal(load_backbone(settings).model.visual.proj, mine["proj"]) and not caplog.records
    own = {k.removeprefix("visual."): v for k, v in tiny_state.items() if k.startswith("visual.")}
    torch.save({"vision_encoder_state_dict": own, "epoch": 1}, path)
    load_backbone(settings)
    assert "holds the image tower of tiny as it is, bit by bit: nothing in it is more robust" in caplog.text
    for parts in (
        {"state_dict": PROMPTER, "vision_encoder_state_dict": own},
        {"vision_encoder_state_dict": own, "add_prompter": {"module.prompt": torch.rand(1, 5, 64)}},
        {"state_dict": own, "add_prompter": PROMPTER},
    ):
        torch.save(parts, path)
        with pytest.raises(WeightsError, match="what was trained is the visual prompter beside it, and no tower"):
            load_backbone(settings)


def test_another_text_tower_is_refused(settings: BackboneSettings, tiny_state: State, tmp_path: Path) -> None:
    visual = {f"visual.{k}": v for k, v in tower(base=tiny_state).items()}
    less = {k: v for k, v in tiny_state.items() if k != "text_projection"}
    more = {"transformer.resblocks.2.ln_1.bias": torch.zeros(64)}
    changed = tiny_state | {"token_embedding.weight": tiny_state["token_embedding.weight"].flip(0)}
    for text, first in (
        (less, "text_projection"),
        (tiny_state | more, "transformer.resblocks.2"),
        (changed, "token_em"),
    ):
        torch.save(text | visual, tmp_path / "tower.pt")
        with pytest.raises(WeightsError, match=f"text tower is not that of tiny .1 of 29 .* the first is {first}"):
            load_backbone(settings)
    scale = {"logit_scale": torch.tensor(3.0), "input_resolution": torch.tensor(32)}
    torch.save(tiny_state | visual | scale, tmp_path / "tower.pt")
    assert load_backbone(settings).image_file is not None


def test_the_activation_of_a_tower_alone(settings: BackboneSettings, tiny_state: State, tmp_path: Path) -> None:
    mine = tower(base=tiny_state)
    torch.save(mine, tmp_path / "tower.pt")
    with pytest.raises(WeightsError, match="IMAGE_ACTIVATION is 'gelu', and tiny has quickgelu.*LAION"):
        load_backbone(dataclasses.replace(settings, image_activation="gelu"))
    torch.save({f"visual.{k}": v for k, v in mine.items()} | tiny_state, tmp_path / "tower.pt")
    with pytest.raises(WeightsError, match="IMAGE_ACTIVATION is 'gelu', and tiny has quickgelu.*LAION"):
        load_backbone(dataclasses.replace(settings, image_activation="gelu"))
    named = dataclasses.replace(settings, image_weights=str(tmp_path / "tower.safetensors"))
    save_file(mine, tmp_path / "tower.safetensors", metadata={"activation": "gelu"})
    with pytest.raises(WeightsError, match="tower.safetensors has gelu, and tiny has quickgelu"):
        load_backbone(named)
    save_file(mine, tmp_path / "tower.safetensors", metadata={"activation": "quickgelu"})
    assert load_backbone(named).image_file is not None
    with pytest.raises(WeightsError, match="IMAGE_ACTIVATION is 'gelu', and .*safetensors says quickgelu; leave"):
        load_backbone(dataclasses.replace(named, image_activation="gelu"))
    with pytest.raises(ConfigError, match="MODEL.IMAGE_ACTIVATION: unknown value 'geluu'. Did you mean 'gelu'"):
        BackboneSettings.from_flat({"MODEL.IMAGE_ACTIVATION": "geluu"})


# --- towers that were tuned here ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"activation": "gelu"}, "tower.safetensors has gelu, and tiny has quickgelu"),
        ({"mean": (0.5, 0.5, 0.5)}, r"mean \(0.5, 0.5, 0.5\), expected \(0.48145466, 0.4578275, 0.40"),
        ({"std": (0.5, 0.5, 0.5)}, r"std \(0.5, 0.5, 0.5\), expected \(0.26862954, 0.26130258, 0.27"),
        ({"size": (64, 64)}, r"size \(64, 64\), expected \(32, 32\)"),
        ({"base": Base(name="ViT-B/32", image="0" * 64, text="1" * 64)}, "tuned from ViT-B/32 with the text tower 111"),
        ({"image": "2" * 64}, "is not the tower that its metadata describe: .* and they say 22222.*that FARE"),
        ({"base.image": "3" * 64}, ""),  # of a tower that was tuned from a tuned tower
    ],
    ids=["as it is", "activation", "mean", "std", "size", "text tower", "tensors", "image tower of the base"],
)  # fmt: skip
def test_what_metadata_say_is_compared(
    changes: dict[str, Any], reason: str, settings: BackboneSettings, tiny_state: State, tmp_path: Path
) -> None:
    plain = load_backbone(dataclasses.replace(settings, image_weights=""))
    mine, card = tower(base=tiny_state), plain.card.image
    base = Base.of(plain)
    if image := changes.get("base.image"):
        changes = {"base": dataclasses.replace(base, image=image)}
    made = Provenance(
        base=base, image=digest_of_tower(mine, card), activation="quickgelu", mean=card.mean, std=card.std,
        size=card.size, trainer="FARE", dataset="Digits", shots=16, seed=1, epoch=2,
    )  # fmt: skip
    path = tmp_path / tuned_tower.FILE
    tuned_tower.write(path, mine, dataclasses.replace(made, **changes))
    settings = dataclasses.replace(settings, image_weights=str(path))
    if reason:
        with pytest.raises(WeightsError, match=reason):
            load_backbone(settings)
    else:
        assert load_backbone(settings).image_digest == made.image


# --- whole models, by their configurations ------------------------------------------------------------------------


def whole(folder: Path, tiny_state: State, config: dict[str, Any] | None = None, **pixels: Any) -> str:
    """The test suite's CLIP with another image tower, as open_clip's repositories have it."""
    same = changed(VIT, embed_dim=64, quick_gelu=True, vision={"head_width": 64}, text={"heads": 1})
    folder.mkdir()
    model = {"model_cfg": config or same, "preprocess_cfg": PREPROCESS | pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(model))
    visual = {f"visual.{k}": v for k, v in tower(base=tiny_state).items()}
    save_file({k: v.contiguous() for k, v in (tiny_state | visual).items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


WHOLE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "as it is": ({}, {}, ""),
    "activation": ({"quick_gelu": False}, {}, "has gelu, and tiny has quickgelu.*The whole model: MODEL.BACKBONE"),
    "mean": ({}, {"mean": [0.5] * 3}, r"mean \(0.5, 0.5, 0.5\), expected \(0.48145466.*Take it as"),
    "std": ({}, {"std": [0.5] * 3}, r"std \(0.5, 0.5, 0.5\), expected \(0.26862954, 0.26130258,"),
    "resize": ({}, {"resize_mode": "squash"}, "resize squash, expected shortest"),
    "heads": ({"vision": {"head_width": 16}}, {}, "heads 4, expected 1"),
    "pooling": ({"vision": {"pool_type": "avg"}}, {}, "pool mean, expected class"),
}  # fmt: skip


@pytest.mark.parametrize("file", (False, True), ids=("folder", "file"))
@pytest.mark.parametrize("kind", WHOLE)
def test_what_a_configuration_says_is_compared(
    kind: str, file: bool, settings: BackboneSettings, tiny_state: State, tmp_path: Path
) -> None:
    """At the hub, in a folder, and beside a file."""
    config, pixels, reason = WHOLE[kind]
    same = changed(VIT, embed_dim=64, quick_gelu=True, vision={"head_width": 64}, text={"heads": 1})
    name = whole(tmp_path / "whole", tiny_state, changed(same, **config), **pixels)
    name = str(tmp_path / "whole" / "open_clip_model.safetensors") if file else name
    settings = dataclasses.replace(settings, image_weights=name)
    if not reason:
        assert load_backbone(settings).image_file is not None
        return
    with pytest.raises(WeightsError, match=reason.partition(".*The")[0].partition(".*Take")[0] if file else reason):
        load_backbone(settings)


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5] * 3}, r"mean \(0.5, 0.5, 0.5\), expected"),
        ("preprocessor_config.json", {"image_std": [0.5] * 3}, r"std \(0.5, 0.5, 0.5\), expected"),
        ("preprocessor_config.json", {"resample": 2}, "interpolation bilinear, expected bicubic"),
        ("config.json", {"hidden_act": "gelu"}, "has gelu, and tiny has quickgelu"),
        ("config.json", {"layer_norm_eps": 1e-6}, "eps 1e-06, expected 1e-05"),
        ("", {}, ""),
    ],
    ids=["mean", "std", "interpolation", "activation", "eps", "as it is"],
)  # fmt: skip
def test_what_transformers_configurations_say_is_compared(
    part: str, changes: dict[str, Any], reason: str, settings: BackboneSettings, tiny_state: State, tmp_path: Path
) -> None:
    both = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256}
    both |= changes if part == "config.json" else {}
    vision = {**both, "image_size": 32, "patch_size": 8}
    config = {"model_type": "clip", "projection_dim": 64, "text_config": both, "vision_config": vision}
    pixels = {"image_mean": list(cards.CLIP_MEAN), "image_std": list(cards.CLIP_STD), "size": {"shortest_edge": 32}}
    pixels |= changes if part.startswith("pre") else {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    visual = {f"visual.{k}": v for k, v in tower(base=tiny_state).items()}
    save_file({k: v.contiguous() for k, v in (tiny_state | visual).items()}, tmp_path / "model.safetensors")
    for name in (f"local-dir:{tmp_path}", str(tmp_path / "model.safetensors")):
        chosen = dataclasses.replace(settings, image_weights=name)
        if reason:
            with pytest.raises(WeightsError, match=reason):
                load_backbone(chosen)
        else:
            assert load_backbone(chosen).image_file is not None
