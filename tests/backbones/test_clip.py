"""One CLIP from every kind of file, and a clear answer for every file that is none."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from advpt.backbones import clip as backbones
from advpt.backbones.clip import (
    OFFICIAL,
    Backbone,
    architecture_of,
    from_state,
    read_state,
)
from advpt.backbones.load import load_backbone
from advpt.bank.cache import AttackRequest, BankCache
from advpt.errors import WeightsError
from advpt.files import file_digest, tensor_digest
from advpt.settings import BackboneSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:Detected pickle protocol")
State = dict[str, Tensor]


def load(path: Path, name: str = "tiny", trust: bool = False, activation: str = "quickgelu") -> Backbone:
    return load_backbone(BackboneSettings(name, str(path), trust, activation=activation))


def write_plain(state: State, path: Path) -> None:
    torch.save(state, path)


def write_half(state: State, path: Path) -> None:
    torch.save({k: v.half() for k, v in state.items()}, path)


def write_wrapped(state: State, path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": state}, path)


def write_parallel(state: State, path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)


def write_old_format(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_with_sizes(state: State, path: Path) -> None:
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    torch.save(state | {k: torch.tensor(v) for k, v in sizes.items()}, path)


def write_safetensors(state: State, path: Path) -> None:
    save_file({k: v.clone() for k, v in state.items()}, path)


WRITERS = (
    write_plain,
    write_half,
    write_wrapped,
    write_parallel,
    write_old_format,
    write_with_sizes,
    write_safetensors,
)


@pytest.fixture(scope="session")
def rounded(tiny_state: State) -> State:
    """The tiny weights after rounding to half precision, as official files store them."""
    return {k: v.half().float() for k, v in tiny_state.items()}


def features(backbone: Backbone) -> tuple[Tensor, Tensor]:
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(2, 77, dtype=torch.int64)
    tokens[:, :4] = torch.tensor([[49406, 320, 1929, 49407], [49406, 320, 2368, 49407]])
    with torch.no_grad():
        return backbone.require_image()(pixels), backbone.model.encode_text(tokens)


@pytest.mark.parametrize("write", WRITERS, ids=lambda w: w.__name__.removeprefix("write_"))
def test_same_weights_in_every_format(write: Callable[[State, Path], None], rounded: State, tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if write is write_safetensors else "w.pt")
    write(rounded, path)
    found, expected = load(path), from_state("tiny", rounded, "memory")
    assert (found.image_digest, found.text_digest) == (expected.image_digest, expected.text_digest)
    for ours, wanted in zip(features(found), features(expected)):
        assert torch.equal(ours, wanted)


def test_archive_gives_the_same_weights_once_it_is_trusted(tiny_archive: Path, tiny_clip: Backbone) -> None:
    with pytest.raises(WeightsError, match="TorchScript archive.*MODEL.TRUST_ARCHIVE True") as caught:
        load(tiny_archive)
    assert file_digest(tiny_archive) in str(caught.value)
    found = load(tiny_archive, trust=True)
    assert (found.image_digest, found.text_digest) == (tiny_clip.image_digest, tiny_clip.text_digest)
    for ours, wanted in zip(features(found), features(tiny_clip)):
        assert torch.equal(ours, wanted)


def test_an_archive_that_is_not_trusted_is_never_opened(
    tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the archive was opened"))
    for name in ("w.pt", "w.pth", "w.bin"):
        copy = tmp_path / name
        copy.write_bytes(tiny_archive.read_bytes())
        with pytest.raises(WeightsError, match="TorchScript archive"):
            read_state(copy)


@pytest.mark.parametrize(
    ("key", "tower"),
    (
        ("visual.proj", "image"),
        ("visual.ln_post.bias", "image"),
        ("text_projection", "text"),
        ("logit_scale", "text"),
        ("token_embedding.weight", "text"),
    ),
)
def test_a_changed_weight_changes_the_hash_of_its_tower(tiny_state: State, key: str, tower: str) -> None:
    before = from_state("tiny", tiny_state, "memory")
    changed = tiny_state[key].clone()
    changed.view(-1)[-1] = torch.nextafter(changed.view(-1)[-1], torch.tensor(9.0))
    after = from_state("tiny", tiny_state | {key: changed}, "memory")
    assert (before.image_digest != after.image_digest) == (tower == "image")
    assert (before.text_digest != after.text_digest) == (tower == "text")


# --- files that are no CLIP -------------------------------------------------------------------------------------


def test_wrong_architecture_for_an_official_name(tiny_weights: Path) -> None:
    with pytest.raises(WeightsError, match=r"tiny.pt holds \[patch 8, 32 px.*ViT-B/16 is \[patch 16, 224 px"):
        load(tiny_weights, "ViT-B/16")


def test_a_file_without_a_name_is_called_after_itself(tiny_weights: Path) -> None:
    assert load(tiny_weights, "").name == "tiny"


@pytest.mark.parametrize(
    ("spoil", "says"),
    (
        (lambda s: s.pop("ln_final.weight"), "ln_final.weight"),
        (lambda s: s.pop("visual.conv1.weight"), "visual.conv1.weight"),
        (lambda s: s.pop("visual.ln_pre.bias"), "visual.ln_pre.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra"),
        (lambda s: s.update(text_projection=torch.zeros(3)), "fewer dimensions"),
        (lambda s: s.update(text_projection=torch.zeros(63, 64)), "text_projection"),
        (lambda s: s.update({"ln_final.weight": torch.zeros(200)}), "does not fit"),
    ),
    ids=("missing", "no image tower", "missing bias", "unexpected", "flat", "shape", "odd width"),
)
def test_tensors_that_do_not_fit(tiny_state: State, spoil: Callable[[State], Any], says: str, tmp_path: Path) -> None:
    state = dict(tiny_state)
    spoil(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=says):
        load(tmp_path / "w.pt")


def visual_of(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith("visual.")}


@pytest.mark.parametrize(
    ("change", "says"),
    (
        (
            lambda s: {f"model.{k}": v for k, v in s.items()},
            r"around a CLIP: their names begin with 'model\.'.*Save the",
        ),
        (lambda s: {f"module.clip.{k}": v for k, v in s.items()}, r"their names begin with 'clip\.'"),
        (lambda s: {f"a.b.{k}": v for k, v in s.items()} | {"head": s["text_projection"]}, r"begin with 'a\.b\.'"),
        (lambda s: {"text_model.embeddings.x": s["text_projection"]}, "Hugging Face's layout.*MODEL.BACKBONE.NAME"),
        (lambda s: {"clip.vision_model.post_layernorm.bias": s["text_projection"]}, "Hugging Face's layout"),
        (lambda s: s | {"visual.trunk.norm.weight": s["text_projection"]}, "image tower of timm's"),
        (visual_of, "image tower without a text tower.*MODEL.IMAGE_WEIGHTS"),
        (
            lambda s: {k.removeprefix("visual."): v for k, v in visual_of(s).items()},
            "image tower without a text tower.*MODEL.IMAGE_WEIGHTS",
        ),
        (lambda s: {k: v for k, v in s.items() if k not in visual_of(s)}, "tensor 'visual.conv1.weight' is not among"),
        (lambda s: {"fc.weight": s["text_projection"]}, "tensor 'visual.conv1.weight' is not among the 1"),
    ),
    ids=(
        "wrapper",
        "two wrappers",
        "part of a model",
        "HF",
        "HF in a wrapper",
        "timm",
        "visual",
        "bare",
        "text",
        "others",
    ),
)
def test_tensors_by_other_names_are_called_what_they_are(
    tiny_state: State, change: Callable[[State], State], says: str, tmp_path: Path
) -> None:
    torch.save(change(dict(tiny_state)), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=rf"w\.pt: .*{says}") as caught:
        load(tmp_path / "w.pt")
    assert "layer1" not in str(caught.value)


def test_a_whole_pickled_model_is_named_and_never_opened(tmp_path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "w.pt")
    with pytest.raises(
        WeightsError,
        match=r"w\.pt holds a pickled object of torch\.nn\.modules\.conv\.Conv2d.*torch\.save\(model\.state_dict",
    ) as caught:
        read_state(tmp_path / "w.pt")
    assert "\x1b" not in str(caught.value) and "damaged" not in str(caught.value)


@pytest.mark.parametrize("content", ([1, 2], {"a": 1}, {3: torch.zeros(1)}, torch.zeros(2)), ids=repr)
def test_a_torch_file_without_a_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w\.pt holds no state dict of tensors"):
        read_state(tmp_path / "w.pt")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"MODEL.WEIGHTS names .*nowhere\.pt, and there is no such file"):
        read_state(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("suffix", (".pt", ".safetensors"))
@pytest.mark.parametrize("content", (b"", b"not weights", b"PK\x03\x04" + b"\0" * 40), ids=("empty", "text", "zip"))
def test_a_file_of_something_else(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as CLIP weights") as caught:
        read_state(path)
    assert str(path) in str(caught.value) and file_digest(path) in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    """Cut off or with flipped bytes at many places: a WeightsError or, where only numbers changed, other weights."""
    layer = nn.Linear(3, 2)
    torch.jit.script(layer).save(str(tmp_path / "archive.pt"))
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    save_file(layer.state_dict(), tmp_path / "state.safetensors")
    for name in ("archive.pt", "state.pt", "state.safetensors"):
        whole, damaged = (tmp_path / name).read_bytes(), tmp_path / f"damaged{Path(name).suffix}"
        for place in range(0, len(whole), max(1, len(whole) // 60)):
            for data in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
                damaged.write_bytes(data)
                try:
                    read_state(damaged, trust_archive=True)
                except WeightsError as error:
                    assert str(damaged) in str(error)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("wrapped", (True, False))
def test_a_planted_command_does_not_run(tiny_state: State, wrapped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "w.pt", tmp_path / "it ran"
    bomb = Bomb(tmp_path / "it\\ ran")
    if wrapped:
        torch.save({"state_dict": {"logit_scale": tiny_state["logit_scale"]}, "extra": bomb}, path)
    else:
        path.write_bytes(pickle.dumps(bomb))
    with pytest.raises(WeightsError, match="cannot be read as CLIP weights"):
        load(path)
    assert not marker.exists()


def test_unknown_name() -> None:
    with pytest.raises(WeightsError, match=r"Did you mean 'ViT-B/16'\?.*Known: .*DemoCLIP.*MODEL.WEIGHTS") as caught:
        load_backbone(BackboneSettings("ViT-B16", "", False))
    assert all(name in str(caught.value) for name in OFFICIAL)


# --- what no tensor shows ---------------------------------------------------------------------------------------


def with_gelu(backbone: Backbone) -> Backbone:
    """The same tensors as open_clip's code reads them."""
    for block in [*backbone.model.transformer.resblocks, *backbone.model.visual.transformer.resblocks]:
        block.mlp.gelu = nn.GELU()
    return read_as(backbone, {"activation": "gelu"})


def read_as(backbone: Backbone, image: dict[str, Any], text: dict[str, Any] | None = None) -> Backbone:
    """The same tensors with other fields in both cards; ``text``: where they are not those of the image."""
    card = backbone.card
    towers = {
        "image": dataclasses.replace(card.image, **image),
        "text": dataclasses.replace(card.text, **image if text is None else text),
    }
    return Backbone(dataclasses.replace(card, **towers), backbone.model)


@pytest.mark.parametrize("name", ["tiny", ""])
def test_a_file_whose_activation_nobody_knows_is_refused(tiny_weights: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=r"MODEL.ACTIVATION quickgelu \(or gelu\).*open_clip:") as caught:
        load(tiny_weights, name, activation="")
    assert str(tiny_weights) in str(caught.value)


def test_weights_run_with_the_activation_that_is_said(tiny_weights: Path, tiny_clip: Backbone) -> None:
    quick = load(tiny_weights, activation="quickgelu")
    for ours, wanted in zip(features(quick), features(tiny_clip)):
        assert torch.equal(ours, wanted)
    pytest.importorskip("open_clip")
    gelu = load(tiny_weights, activation="gelu")
    assert gelu.card.image.activation == gelu.card.text.activation == "gelu"
    assert gelu.image_digest != quick.image_digest and gelu.text_digest != quick.text_digest
    for ours, other, wanted in zip(features(gelu), features(quick), features(with_gelu(tiny_clip))):
        assert torch.allclose(ours, wanted, rtol=1e-5, atol=1e-6)
        assert (ours - other).norm() / other.norm() > 1e-4


def test_gelu_weights_need_the_extra(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(WeightsError, match=r'pip install "advpt\[openclip\]"'):
        load(tiny_weights, activation="gelu")


def test_a_safetensors_file_may_say_its_activation(tiny_state: State, tmp_path: Path) -> None:
    for said in ("quickgelu", "gelu"):
        save_file(dict(tiny_state), tmp_path / f"{said}.safetensors", metadata={"activation": said})
    load(tmp_path / "quickgelu.safetensors", activation="")
    load(tmp_path / "quickgelu.safetensors", activation="quickgelu")
    if importlib.util.find_spec("open_clip") is not None:
        assert load(tmp_path / "gelu.safetensors", activation="").card.text.activation == "gelu"
    with pytest.raises(WeightsError, match="MODEL.ACTIVATION is quickgelu, but .*gelu.safetensors has gelu"):
        load(tmp_path / "gelu.safetensors", activation="quickgelu")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_an_archive_shows_its_activation_in_its_code(tiny_archive: Path, tiny_clip: Backbone, tmp_path: Path) -> None:
    load(tiny_archive, trust=True, activation="")
    other = with_gelu(tiny_clip).model
    tokens = torch.tensor([[49406, 320, 49407] + [0] * 74])
    example = (torch.zeros(1, 3, 32, 32), tokens)
    torch.jit.trace(other, example, check_trace=False).save(str(tmp_path / "gelu.pt"))
    for asked in ("", "gelu") if importlib.util.find_spec("open_clip") is not None else ():
        assert load(tmp_path / "gelu.pt", trust=True, activation=asked).card.text.activation == "gelu"
    with pytest.raises(WeightsError, match="MODEL.ACTIVATION is quickgelu, but"):
        load(tmp_path / "gelu.pt", trust=True, activation="quickgelu")


def test_openais_own_archives_need_no_word(tiny_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = file_digest(tiny_archive)
    monkeypatch.setattr(backbones, "official_file", lambda name: ("https://nowhere/x.pt", sha))
    monkeypatch.setattr(backbones, "activation_in", lambda archive: "")
    assert load(tiny_archive, activation="").name == "tiny"


@pytest.mark.parametrize("name", ["DemoCLIP", "ViT-B/32"])
def test_a_named_model_has_its_own_activation(name: str) -> None:
    with pytest.raises(WeightsError, match=f"MODEL.ACTIVATION is gelu, but {name} has quickgelu"):
        load_backbone(BackboneSettings(name, "", False, activation="gelu"))


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        (backbones.Architecture(64, 16, 1, 1280, 8, 77, 49408, 64, 1), "width 1280.*20 heads of 64.*16 heads of 80"),
        (backbones.Architecture(64, 16, 1, 1408, 8, 77, 49408, 64, 1), "width 1408.*22 heads"),
        (backbones.Architecture(64, 16, 1, 64, 8, 77, 901629, 64, 1), "901629 rows.*OpenAI's tokenizer.*49408"),
    ],
    ids=["ViT-H", "ViT-g", "another tokenizer"],
)
def test_sizes_that_openais_code_reads_otherwise_are_refused(arch: backbones.Architecture, says: str) -> None:
    with torch.device("meta"):
        state = backbones.build(arch).state_dict()
    with pytest.raises(WeightsError, match=says):
        from_state("H", state, "file.pt")


def test_equal_tensors_read_otherwise_have_other_hashes_and_bank_keys(
    tiny_state: State, images: Callable[..., Any], tmp_path: Path
) -> None:
    usual = from_state("tiny", tiny_state, "memory")
    made = {
        "activation": read_as(usual, {"activation": "gelu"}),
        "heads": read_as(usual, {"heads": 2}),
        "mean": read_as(usual, {"mean": (0.5, 0.5, 0.5)}, {}),
        "eps": read_as(usual, {"eps": 1e-6}),
    }
    assert usual.image_digest == tensor_digest(usual.require_image().visual.state_dict()) and usual.reads is None
    all_of = [usual, *made.values()]
    assert len({backbone.image_digest for backbone in all_of}) == 5
    assert len({backbone.text_digest for backbone in all_of}) == 4  # the text tower has no mean of pixels
    pictures = images(2)
    keys = {BankCache(tmp_path, b, lambda: usual).spec(AttackRequest(pictures)).key for b in all_of}
    assert len(keys) == 5
    for field, backbone in made.items():
        reads = backbone.reads
        assert reads is not None and reads["image"][field] != usual.card.image.reading()[field]
    made["heads"].release_image_encoder()
    assert made["heads"].reads is not None  # for the records of a run whose image tower was given back


# --- the object -------------------------------------------------------------------------------------------------


def test_architecture_is_read_from_the_tensors() -> None:
    sizes = {
        "resnet": backbones.Architecture(16, 64, (1, 2, 1, 1), 8, None, 9, 50, 64, 3),
        "vit": backbones.Architecture(24, 48, 3, 64, 16, 11, 60, 128, 1),
    }
    for arch in sizes.values():
        assert architecture_of(backbones.build(arch).state_dict()) == arch


def test_official_names_are_those_of_the_clip_package() -> None:
    assert set(OFFICIAL) == set(backbones.import_clip().available_models())
    for name in OFFICIAL:
        url, sha = backbones.official_file(name)
        assert url.startswith("https://") and len(sha) == 64


def test_everything_is_frozen_float32_and_in_evaluation_mode(rounded: State, tmp_path: Path) -> None:
    write_half(rounded, tmp_path / "w.pt")
    backbone = load(tmp_path / "w.pt")
    for module in (backbone.model, backbone.require_image()):
        assert not module.training and not any(m.training for m in module.modules())
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in module.parameters())
    assert backbone.logit_scale == pytest.approx(float(rounded["logit_scale"].exp()))


def test_loading_leaves_the_random_state_alone(tiny_weights: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load(tiny_weights)
    load_backbone(BackboneSettings("DemoCLIP", "", False))
    assert torch.equal(torch.get_rng_state(), before)


def test_released_image_encoder(tiny_clip: Backbone) -> None:
    expected = from_state("tiny", tiny_clip.model.state_dict(), "memory").image_digest
    tiny_clip.release_image_encoder()
    assert tiny_clip.image_digest == expected
    assert not any(name.startswith("visual.") for name, _ in tiny_clip.model.named_parameters())
    with pytest.raises(WeightsError, match="released"):
        tiny_clip.require_image()


def test_folder_names() -> None:
    for name, folder in (("ViT-B/16", "ViT-B-16"), ("ViT-L/14@336px", "ViT-L-14@336px"), ("RN50x4", "RN50x4")):
        backbone = Backbone.__new__(Backbone)
        backbone.name = name
        assert backbone.folder == folder
