"""Where a model's configuration, weights and tokenizer are; no weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advpt.backbones.find import Model, find_model, is_known_here, missing
from advpt.backbones.hub import Folder, Repository
from advpt.errors import WeightsError
from tests.helpers.hub import COMMIT, hub_repository
from tests.helpers.open_clip import PREPROCESS, VIT, changed
from tests.helpers.tokenizer import write_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


def configured(**model: Any) -> bytes:
    return json.dumps({"model_cfg": changed(VIT, **model), "preprocess_cfg": PREPROCESS}).encode()


def model(name: str, activation: str = "") -> Model:
    made = find_model(name, activation)
    assert made is not None
    return made


def test_openais_names_and_labels_are_none_of_these() -> None:
    assert find_model("ViT-B/16") is find_model("DemoCLIP") is find_model("mine") is None


def test_activation_and_preprocessing_belong_to_the_tag() -> None:
    pytest.importorskip("open_clip")
    quick, gelu = model("open_clip:ViT-B-32/laion400m_e32").card(), model("open_clip:ViT-B-32/laion2b_s34b_b79k").card()
    assert (quick.image.activation, quick.text.activation) == ("quickgelu", "quickgelu")
    assert (gelu.image.activation, gelu.text.activation) == ("gelu", "gelu")
    assert model("open_clip:ViT-L-14/laion2b_s32b_b82k").card().image.mean == (0.5, 0.5, 0.5), "alone among LAION's"
    assert model("open_clip:ViT-L-14/datacomp_xl_s13b_b90k").card().image.mean[0] == 0.48145466
    assert model("open_clip:ViT-H-14/dfn5b").card().image.resize == "squash"
    assert model("open_clip:ViT-H-14/laion2b_s32b_b79k").card().image.heads == 16, "heads of 80"


def test_every_tag_is_read_as_open_clips_table_says() -> None:
    """Its own table has activations that its architectures contradict: the tag is right."""
    open_clip = pytest.importorskip("open_clip")
    read, refused = 0, set()
    for architecture, tag in open_clip.list_pretrained():
        try:
            made = find_model(f"open_clip:{architecture}/{tag}")
        except WeightsError as error:
            assert "of transformers" in str(error) or "CoCa" in str(error)
            refused.add(f"{architecture}/{tag}")
            continue
        if made is not None:  # None: OpenAI's own
            said, pixels = open_clip.get_pretrained_cfg(architecture, tag), made.read.pixels
            assert made.read.activation == ("quickgelu" if said.get("quick_gelu") else "gelu")
            assert (pixels.mean, pixels.std) == (tuple(said["mean"]), tuple(said["std"]))
            assert (pixels.interpolation, pixels.resize) == (said["interpolation"], said["resize_mode"])
            read += 1
    if open_clip.__version__.startswith("3.3."):
        assert (read, len(refused)) == (165, 13)


def test_weights_of_a_tag_are_those_of_its_repository() -> None:
    pytest.importorskip("open_clip")
    made = model("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert made.place == Repository("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert made.files == ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    file = model("open_clip:EVA02-B-16/merged2b_s8b_b131k").files
    assert len(file) in (1, 2) and model("open_clip:ViT-B-32").place is None


def test_siglip_is_squashed_plain_and_has_a_bias() -> None:
    pytest.importorskip("timm")
    pytest.importorskip("open_clip")
    for name, pad in (("open_clip:ViT-B-16-SigLIP/webli", 32000), ("open_clip:ViT-B-16-SigLIP2/webli", 256000)):
        card = model(name).card()
        assert (card.image.resize, card.image.mean, card.head) == ("squash", (0.5, 0.5, 0.5), "sigmoid")
        assert (card.text.causal, card.text.reads, card.text.vocabulary) == (False, "last", pad)
        assert not card.text.shares_prefix


def test_a_repository_is_read_by_its_configuration(cache: Path) -> None:
    hub_repository(cache, "org/repo", {"open_clip_config.json": configured(quick_gelu="TRUE")})
    made = model("hf-hub:org/repo")
    assert made.card().image.activation == "quickgelu" and made.card().name == "hf-hub:org/repo"
    assert made.facts("f", "s") == {
        "kind": "hf-hub", "repository": "org/repo", "revision": COMMIT, "file": "f", "sha256": "s",
    }  # fmt: skip
    hub_repository(cache, "org/leaf", {"config.json": b'{"model_type": "clip"}'})
    leaf = model("hf-hub:org/leaf")
    assert leaf.transformers and leaf.files[0] == "model.safetensors" and leaf.card().image.activation == "quickgelu"


def test_an_activation_that_is_asked_for_is_taken_where_none_is_said_and_refused_where_another_is(cache: Path) -> None:
    hub_repository(cache, "org/silent", {"open_clip_config.json": configured()})
    assert model("hf-hub:org/silent").card().text.activation == "gelu"
    assert model("hf-hub:org/silent", "quickgelu").card().text.activation == "quickgelu"
    hub_repository(cache, "org/quick", {"open_clip_config.json": configured(quick_gelu=True)})
    with pytest.raises(WeightsError, match="MODEL.ACTIVATION is gelu, but hf-hub:org/quick has quickgelu"):
        model("hf-hub:org/quick", "gelu")


def test_a_stale_configuration_of_a_repository_that_open_clip_knows_is_refused(cache: Path) -> None:
    pytest.importorskip("open_clip")
    hub_repository(cache, "apple/DFN2B-CLIP-ViT-B-16", {"open_clip_config.json": configured()})
    with pytest.raises(WeightsError, match="does not say quick_gelu.*open_clip's own table says quickgelu"):
        model("hf-hub:apple/DFN2B-CLIP-ViT-B-16")
    assert model("hf-hub:apple/DFN2B-CLIP-ViT-B-16", "quickgelu").card().image.activation == "quickgelu"


def test_a_configuration_runs_nothing_of_its_folder(tmp_path: Path) -> None:
    """open_clip hands ``tokenizer_kwargs`` to transformers' AutoTokenizer, which then runs code of the folder."""
    pytest.importorskip("tokenizers")
    marker = tmp_path / "marker"
    folder = tmp_path / "model"
    write_tokenizer(folder)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    text = {"hf_tokenizer_name": "org/x", "no_causal_mask": True, "pool_type": "last"}
    (folder / "open_clip_config.json").write_bytes(
        configured(text=text | {"tokenizer_kwargs": {"trust_remote_code": True}})
    )
    with pytest.raises(WeightsError, match="tokenizer_kwargs has trust_remote_code"):
        model(f"local-dir:{folder}")
    (folder / "open_clip_config.json").write_bytes(configured(text=text))
    assert model(f"local-dir:{folder}").tokenizer() is not None and not marker.exists()


def test_a_tokenizer_is_of_the_repository_that_is_named_or_of_the_folder(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    text = {"no_causal_mask": True, "pool_type": "last"}
    files = {name: (write_tokenizer(tmp_path / "t").parent / name).read_bytes() for name in
             ("tokenizer.json", "tokenizer_config.json")}  # fmt: skip
    hub_repository(cache, "org/words", files)
    for name, good in (("org/words", True), ("../words", False), ("/etc/passwd", False)):
        config = configured(text=text | {"hf_tokenizer_name": name})
        hub_repository(cache, "org/repo", {"open_clip_config.json": config})
        if good:
            file = model("hf-hub:org/repo").tokenizer()
            assert file is not None and model("hf-hub:org/repo").card(file).text.end == 1
        else:
            with pytest.raises(WeightsError, match="expected a repository of the hub"):
                model("hf-hub:org/repo").tokenizer()
    assert model("hf-hub:org/repo").card().text.tokenizer == "", "of a card without its file"


def test_what_is_missing_is_said_without_a_connection(cache: Path, tmp_path: Path) -> None:
    assert missing("ViT-B/16") == "" and not is_known_here("hf-hub:org/repo") and is_known_here("ViT-B/16")
    assert "fetched from the hub, org/repo, into" in missing("hf-hub:org/repo")
    hub_repository(cache, "org/repo", {"open_clip_model.safetensors": b"x", "open_clip_config.json": configured()})
    assert missing("hf-hub:org/repo") == "" and is_known_here("hf-hub:org/repo")
    assert "there is no such folder" in missing(f"local-dir:{tmp_path / 'none'}") and not missing(
        f"local-dir:{tmp_path}"
    )
    assert "did you mean" in missing("openclip:ViT-B-32/openai")
    assert isinstance(model("hf-hub:org/repo").place, Repository) and isinstance(Folder(tmp_path), Folder)
