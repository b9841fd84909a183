"""Image towers in each whole format, made at random: in their base they compute what their own library does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import Normalize

from advpt.backbones import card as cards
from advpt.backbones import clip, hf, tuned_tower
from advpt.backbones.backbone import Backbone
from advpt.backbones.card import digest_of_tower
from advpt.backbones.load import load_backbone
from advpt.backbones.names import parse_tower
from advpt.backbones.tower_files import is_prompter, read_tower
from advpt.errors import ConfigError, WeightsError
from advpt.files import file_digest
from advpt.settings import BackboneSettings
from tests.helpers.hub import COMMIT, hub_repository
from tests.helpers.open_clip import VIT, build, changed, write_folder
from tests.helpers.towers import CONFIGS, apart, shake

open_clip = pytest.importorskip("open_clip")
State = dict[str, Tensor]
# As OpenAI's code reads tensors: heads of 64, quickgelu.
OPENAI = changed(VIT, quick_gelu=True, vision={"head_width": 64}, text={"heads": 1})
RESNET = changed(
    OPENAI, vision={"layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "image_size": 64, "head_width": 64}
)
PROMPTER = {f"module.pad_{side}": torch.rand(1, 3, 4, 32) for side in ("up", "down", "left", "right")}


def parts(model: nn.Module) -> tuple[State, State]:
    """The tensors of both towers of an open_clip model: of the image by bare names."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    visual = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    return visual, {name: value for name, value in state.items() if not name.startswith("visual.")}


def base_file(folder: Path, text: Mapping[str, Tensor], visual: Mapping[str, Tensor]) -> BackboneSettings:
    """A CLIP that OpenAI's code runs, as a file; the tower in it is another one than ``visual``."""
    generator = torch.Generator().manual_seed(9)
    other = {
        f"visual.{k}": v + 0.3 * torch.rand(v.shape, generator=generator) if v.is_floating_point() else v
        for k, v in visual.items()
    }
    torch.save({**text, **other}, folder / "base.pt")
    return BackboneSettings("tiny", str(folder / "base.pt"), activation="quickgelu")


def base_folder(folder: Path, config: dict[str, Any]) -> BackboneSettings:
    """A CLIP that open_clip's classes run, as a folder."""
    return BackboneSettings(f"local-dir:{write_folder(folder / 'base', config)}")


def robust(config: dict[str, Any], text: Mapping[str, Tensor] | None = None) -> nn.Module:
    """open_clip's own model with another image tower, and this text tower."""
    model: Any = build(config, seed=5)
    shake(model.visual, seed=3)
    model.load_state_dict({**model.state_dict(), **(text or parts(build(config))[1])})
    return model.eval()


@torch.no_grad()
def assert_is(made: Backbone, theirs: nn.Module) -> None:
    """Features are those of open_clip's own code, on pixels that its own constants normalise."""
    x = torch.rand(4, 3, *made.card.image.size, generator=torch.Generator().manual_seed(1))
    wanted = theirs.encode_image(Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)(x))
    assert apart(made.require_image()(x), wanted) <= 1e-5
    assert not any(weight.requires_grad for weight in made.model.parameters())


def tecoa(path: Path, visual: State) -> str:
    """As TeCoA's training code writes it."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], 1e-5, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    saved = {"epoch": 3, "state_dict": PROMPTER, "add_prompter": {"prompt": torch.rand(1, 5, 64)}}
    saved |= {"vision_encoder_state_dict": {f"module.{k}": v for k, v in visual.items()}}
    torch.save({**saved, "best_acc1": np.float64(71.5), "optimizer": optimizer.state_dict()}, path)
    return str(path)


def tuned(path: Path, visual: State, base: Backbone, **changes: Any) -> str:
    """As a run here leaves it."""
    card = base.card.image
    made = tuned_tower.Provenance(
        base=tuned_tower.Base.of(base), image=digest_of_tower(visual, card),
        activation=tuned_tower.activation_of(base), mean=card.mean, std=card.std, size=card.size, trainer="FARE",
        dataset="Digits", shots=16, seed=1, epoch=2, training={"attack": "pgd10-l2@4/a1"},
    )  # fmt: skip
    tuned_tower.write(path, visual, dataclasses.replace(made, **changes))
    return str(path)


def saved(content: Any, path: Path) -> str:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return str(path)


ALONE: dict[str, Callable[[Path, State], str]] = {
    "bare": lambda folder, visual: saved(visual, folder / "fare_eps_4.pt"),
    "bare safetensors": lambda folder, visual: saved(visual, folder / "fare.safetensors"),
    "vision_encoder_state_dict": lambda folder, visual: tecoa(folder / "vitb32_eps4.pth.tar", visual),
    "partial_state_dict": lambda folder, visual: saved(
        {"partial_state_dict": {f"module.visual.{k}": v for k, v in visual.items()}, "epoch": 1}, folder / "advflyp.pth"
    ),
}


@pytest.mark.parametrize("config", (OPENAI, RESNET), ids=("vit", "resnet"))
@pytest.mark.parametrize("form", ALONE)
def test_a_tower_alone_in_a_file(form: str, config: dict[str, Any], tmp_path: Path) -> None:
    theirs = robust(config)
    visual, text = parts(theirs)
    base = base_file(tmp_path, text, visual)
    path = ALONE[form](tmp_path, visual)
    made = load_backbone(dataclasses.replace(base, image_weights=path))
    assert_is(made, theirs)
    assert made.image_file == {"sha256": file_digest(Path(path)), "activation": "quickgelu"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def test_a_tower_alone_in_a_repository(tmp_path: Path, cache: Path) -> None:
    theirs = robust(OPENAI)
    visual, text = parts(theirs)
    file = Path(ALONE["bare"](tmp_path, visual))
    hub_repository(cache, "org/SimCLIP", {"simclip4.pt": file.read_bytes()})
    base = base_file(tmp_path, text, visual)
    made = load_backbone(dataclasses.replace(base, image_weights="hf-hub:org/SimCLIP/simclip4.pt"))
    assert_is(made, theirs)
    assert made.image_file == {
        "sha256": file_digest(file), "activation": "quickgelu", "kind": "hf-hub", "file": "simclip4.pt",
        "repository": "org/SimCLIP", "revision": COMMIT,
    }  # fmt: skip
    for name, advice in (
        ("hf-hub:org/SimCLIP/simclip2.pt@main", "MODEL.IMAGE_WEIGHTS DIR/simclip2.pt"),
        ("hf-hub:org/none", "MODEL.IMAGE_WEIGHTS local-dir:DIR"),
    ):
        with pytest.raises(WeightsError, match=f"is needed.*and give {advice}"):
            load_backbone(dataclasses.replace(base, image_weights=name))


def whole(folder: Path, model: nn.Module, config: dict[str, Any], binary: bool = False, **pixels: Any) -> Path:
    """A whole open_clip model as RobustVLM's repositories have it."""
    write_folder(folder, config, **pixels)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    if binary:
        (folder / "open_clip_model.safetensors").unlink()
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    return folder


@pytest.mark.parametrize(
    ("says", "binary"), [(True, False), (False, True)], ids=("with quick_gelu, safetensors", "without quick_gelu, bin")
)
def test_a_whole_model_of_openais_tower(says: bool, binary: bool, tmp_path: Path, cache: Path) -> None:
    """chs20/fare2-clip, by the name of its repository, as a folder and as a file, with and without its configuration;
    where that does not say the activation, the text tower does."""
    theirs = robust(OPENAI)
    visual, text = parts(theirs)
    base = base_file(tmp_path, text, visual)
    config = OPENAI if says else {name: value for name, value in OPENAI.items() if name != "quick_gelu"}
    folder = whole(tmp_path / "fare2", theirs, config, binary)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = next(path for path in folder.iterdir() if path.suffix != ".json")
    hub_repository(cache, "chs20/fare2-clip", files)
    away = tmp_path / f"alone{weights.suffix}"
    away.write_bytes(weights.read_bytes())
    facts = {"sha256": file_digest(weights), "activation": "quickgelu"}
    for name, more in (
        ("hf-hub:chs20/fare2-clip", {"kind": "hf-hub", "repository": "chs20/fare2-clip", "revision": COMMIT}),
        (f"local-dir:{folder}", {"kind": "local-dir"}),
        (str(weights), {}),
        (str(away), {}),
    ):
        made = load_backbone(dataclasses.replace(base, image_weights=name))
        assert_is(made, theirs)
        assert made.image_file == facts | more | ({"file": weights.name} if more else {})


CLIPA = changed(VIT, vision={"pool_type": "avg", "no_ln_pre": True, "final_ln_after_pool": True})


@pytest.mark.parametrize(
    "config",
    (VIT, CONFIGS["heads of 80"], changed(CONFIGS["ConvNeXt"], custom_text=True), CLIPA),
    ids=("ViT-B", "ViT-H", "ConvNeXt", "CLIPA"),
)
def test_a_whole_model_of_laions_tower(config: dict[str, Any], tmp_path: Path) -> None:
    """chs20/FARE4-ViT-B-32-laion2B-s34B-b79K and others with gelu: in a base with gelu and LAION's text tower."""
    if "timm_model_name" in config["vision_cfg"]:
        pytest.importorskip("timm")
    theirs = robust(config)
    base = base_folder(tmp_path, config)
    folder = whole(tmp_path / "fare4", theirs, config)
    made = load_backbone(dataclasses.replace(base, image_weights=f"local-dir:{folder}"))
    assert_is(made, theirs)
    routed = load_backbone(BackboneSettings(f"local-dir:{folder}"))
    assert_is(routed, theirs)
    assert routed.card.text.activation == "gelu" and made.image_digest == routed.image_digest
    assert made.image_file is not None and made.image_file["activation"] == "gelu"


def test_delta_clip_is_a_whole_model_alone(tmp_path: Path) -> None:
    """CLIPA's architecture, with a text tower of another tokenizer."""
    config = CONFIGS["CLIPA"] | {"quick_gelu": False}
    base = base_file(tmp_path, parts(build(OPENAI))[1], parts(build(OPENAI))[0])
    name = f"local-dir:{whole(tmp_path / 'delta', robust(config), config, mean=[0.485, 0.456, 0.406])}"
    with pytest.raises(
        WeightsError,
        match=f"no norm in front of its blocks .ln_pre., as CLIPA's.*whole model: MODEL.BACKBONE.NAME {name}",
    ):
        load_backbone(dataclasses.replace(base, image_weights=name))


def test_a_configuration_says_the_activation_of_a_resnets_text_tower(tmp_path: Path) -> None:
    theirs = robust(RESNET)
    visual, text = parts(theirs)
    base = base_file(tmp_path, text, visual)
    name = f"local-dir:{whole(tmp_path / 'rn50', theirs, changed(RESNET, quick_gelu=False))}"
    with pytest.raises(WeightsError, match="has gelu, and tiny has quickgelu"):
        load_backbone(dataclasses.replace(base, image_weights=name))


def test_a_tower_that_was_tuned_here(tmp_path: Path) -> None:
    """Its metadata say the activation: MODEL.IMAGE_ACTIVATION need not."""
    theirs = robust(VIT)
    base = base_folder(tmp_path, VIT)
    path = tuned(tmp_path / tuned_tower.FILE, parts(theirs)[0], load_backbone(base))
    made = load_backbone(dataclasses.replace(base, image_weights=path))
    assert_is(made, theirs)
    assert made.image_file == {
        "sha256": file_digest(Path(path)), "activation": "gelu", "trainer": "FARE", "dataset": "Digits", "seed": "1",
    }  # fmt: skip


# --- transformers -----------------------------------------------------------------------------------------------


def leaf(act: str, seed: int = 0) -> Any:
    """A CLIPModel of the sizes of :data:`OPENAI` at random."""
    transformers = pytest.importorskip("transformers")
    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    both = text | {"hidden_act": act}
    config = transformers.CLIPConfig(
        text_config=both, vision_config={**both, "image_size": 32, "patch_size": 8}, projection_dim=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.CLIPModel(config).eval()
    shake(model.vision_model, seed)
    return model


def leaf_base(folder: Path, model: Any, act: str) -> BackboneSettings:
    """A CLIP with the model's text tower."""
    state = hf.from_clip_model(model.state_dict(), "a test")
    visual = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    text = {name: value for name, value in state.items() if not name.startswith("visual.")}
    return dataclasses.replace(base_file(folder, text, visual), activation=act)


@torch.no_grad()
def assert_is_leaf(made: Backbone, theirs: Any, within: float = 1e-5) -> None:
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pooled = theirs.vision_model(Normalize(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)(x)).pooler_output
    assert apart(made.require_image()(x), theirs.visual_projection(pooled)) <= within


@pytest.mark.parametrize(
    ("act", "precision"),
    [("gelu", torch.float32), *(("quick_gelu", each) for each in (torch.float32, torch.float16, torch.bfloat16))],
    ids=str,
)
def test_a_clip_model_of_transformers(act: str, precision: torch.dtype, tmp_path: Path) -> None:
    """LEAF-CLIP/CLIP-ViT-L-FARE2, whose text tower is OpenAI's: by folder and by file, in any precision."""
    theirs, ours = leaf(act), act.replace("_", "")
    base = leaf_base(tmp_path, theirs, ours)
    theirs.to(precision).save_pretrained(tmp_path / "leaf")
    theirs.float()
    for name in (f"local-dir:{tmp_path / 'leaf'}", str(tmp_path / "leaf" / "model.safetensors")):
        made = load_backbone(dataclasses.replace(base, image_weights=name))
        assert_is_leaf(made, theirs)
        assert all(value.dtype == torch.float32 for value in made.model.visual.state_dict().values())
        assert made.image_file is not None and made.image_file["activation"] == ours


def test_a_clip_model_whose_text_tower_was_changed_is_a_whole_model(tmp_path: Path, cache: Path) -> None:
    """LEAF's own variants: refused as a tower, and run by their name."""
    theirs = leaf("quick_gelu")
    base = leaf_base(tmp_path, theirs, "quickgelu")
    with torch.no_grad():
        theirs.text_model.encoder.layers[1].mlp.fc2.bias += 0.1
    theirs.save_pretrained(tmp_path / "leaf")
    hub_repository(cache, "LEAF-CLIP/leaf", {path.name: path.read_bytes() for path in (tmp_path / "leaf").iterdir()})
    name = "hf-hub:LEAF-CLIP/leaf"
    with pytest.raises(
        WeightsError,
        match=r"text tower is not that of tiny \(1 of 29 tensors differ, the first is transformer.resblocks.1.mlp.c_pro"
        rf"j.bias\).*text tower was changed. The whole model: MODEL.BACKBONE.NAME {name}",
    ):
        load_backbone(dataclasses.replace(base, image_weights=name))
    made = load_backbone(BackboneSettings(name))
    assert_is_leaf(made, theirs)
    ids = made.tokenizer.batch(["a photo of a cat.", "a dog"])
    with torch.no_grad():
        wanted = theirs.text_projection(theirs.text_model(ids).pooler_output)
        assert apart(made.text.encode_texts(["a photo of a cat.", "a dog"]), wanted) <= 1e-5


def test_an_old_file_of_transformers_has_buffers(tmp_path: Path) -> None:
    theirs = leaf("quick_gelu")
    base = leaf_base(tmp_path, theirs, "quickgelu")
    buffers = {f"{tower}_model.embeddings.position_ids": torch.arange(3)[None] for tower in ("text", "vision")}
    path = saved({**theirs.state_dict(), **buffers}, tmp_path / "pytorch_model.bin")
    assert_is_leaf(load_backbone(dataclasses.replace(base, image_weights=path)), theirs)


# --- names, prompters, files that are none ----------------------------------------------------------------------


def test_names_of_towers() -> None:
    assert parse_tower("towers/fare_eps_4.pt") is None and parse_tower("/a/hf-hub/b.pt") is None
    for name in (
        "hf-hub:a/b",
        "hf-hub:a/b@v1",
        "hf-hub:a/b/c.pt",
        "hf-hub:a/b/c/d.pt@v1",
        "hf-hub:a/b@refs/pr/1",
        "local-dir:x/y",
    ):
        source = parse_tower(name)
        assert source is not None and str(source) == name
    made = parse_tower("hf-hub:a/b/c/d.pt@v1")
    assert made is not None and (made.repository, made.file, made.revision) == ("a/b", "c/d.pt", "v1")
    for name, reason in (
        ("hf-hub:b", "MODEL.IMAGE_WEIGHTS is 'hf-hub:b'; expected hf-hub:ORG/REPO"),
        ("hf-hub:a/b/../c.pt", "MODEL.IMAGE_WEIGHTS is .*expected hf-hub"),
        ("hf-hub:a/b@v/c.pt", "is 'hf-hub:a/b@v/c.pt'; put @REVISION last: hf-hub:a/b/c.pt@v"),
        ("hf-hub:a/b@v1/c/d.safetensors", "put @REVISION last: hf-hub:a/b/c/d.safetensors@v1"),
        ("hf_hub:a/b", "MODEL.IMAGE_WEIGHTS is .*did you mean hf-hub:a/b"),
        ("open_clip:ViT-B-32/openai", "taken whole: MODEL.BACKBONE.NAME open_clip:ViT-B-32/openai"),
    ):
        with pytest.raises(ConfigError, match=reason):
            parse_tower(name)


def test_a_prompter_has_no_weights_but_frames_and_tokens() -> None:
    frame, tokens = torch.rand(1, 3, 30, 224), torch.rand(1, 10, 768)
    assert is_prompter({"pad_up": frame, "pad_left": frame}) and is_prompter({"prompt": tokens})
    assert not is_prompter({}) and not is_prompter({"pad_up": frame, "proj": torch.rand(3, 3)})
    assert not is_prompter({"w": torch.rand(2, 3, 4, 4)}) and not is_prompter({"w": torch.rand(1, 4, 4, 4)})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            {"state_dict": PROMPTER, "epoch": 1},
            "holds a visual prompter .pad_down, pad_left, pad_right, pad_up., which",
        ),
        ({"prompt": torch.rand(1, 5, 64)}, "holds a visual prompter .prompt., which TeCoA's visual prompts add"),
        (
            {"vision_encoder_state_dict": {}, "state_dict": PROMPTER},
            "holds no state dict of tensors; expected a robust",
        ),
        ({"proj": torch.rand(2), "module.proj": torch.rand(2)}, "holds proj twice"),
        (nn.Linear(2, 2), "holds a pickled object of torch.nn.modules.linear.Linear, which cannot be opened"),
        ({"vision_encoder_state_dict": {"proj": nn.Linear(2, 2)}}, "holds a pickled object of torch.nn.modules"),
    ],
    ids=["frame", "tokens", "empty wrapper", "twice", "object", "object inside"],
)
def test_files_that_hold_no_tower_are_refused(content: Any, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "tower.pth.tar")
    with pytest.raises(WeightsError, match=f"tower.pth.tar {reason}"):
        read_tower(str(tmp_path / "tower.pth.tar"))


def test_archives_and_folders_are_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "tower.pt")
    with pytest.raises(WeightsError, match="tower.pt is a TorchScript archive, which can contain code"):
        read_tower(str(tmp_path / "tower.pt"))
    with pytest.raises(WeightsError, match="It is a folder: name the file in it, or.* local-dir:"):
        read_tower(str(tmp_path))
    with pytest.raises(WeightsError, match="Where they come from: TeCoA.*docs/backbones.md"):
        read_tower(str(tmp_path / "none.pt"))


def test_a_tower_beside_a_run_configuration_is_read_without_it(tmp_path: Path) -> None:
    """Runs have a config.json too, which is none of transformers'."""
    theirs = robust(OPENAI)
    (tmp_path / "config.json").write_text(json.dumps({"MODEL.BACKBONE.NAME": "x"}))
    path = saved(theirs.state_dict(), tmp_path / "model.pt")
    assert dict(read_tower(path).shown) == {}
    whole(tmp_path / "other", theirs, OPENAI)
    shown = read_tower(str(tmp_path / "other" / "open_clip_model.safetensors")).shown
    assert shown["mean"] == list(cards.CLIP_MEAN) and shown["activation"] == "quickgelu"
    visual = saved(parts(theirs)[0], tmp_path / "other" / "tower.pt")
    assert dict(read_tower(visual).shown) == {}, "a configuration is of the whole model"


def test_openais_sizes_are_openais() -> None:
    """The models of these tests are read by OpenAI's code as by open_clip's."""
    arch = clip.Architecture(32, 32, 2, 64, 8, 77, 49408, 64, 2)
    assert parts(build(OPENAI))[0].keys() == clip.build(arch).visual.state_dict().keys()
