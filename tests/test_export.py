"""A model for other programs: what they compute with it is what ours computes."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from advpt import export
from advpt.backbones import democlip, tuned_tower
from advpt.backbones.clip import Architecture, backbone_of, build
from advpt.data.demo_sets import DIGITS
from advpt.data.rendered import DIGIT_NAMES
from advpt.errors import ConfigError, WeightsError
from advpt.model import Model
from advpt.prompts.classifier import from_templates
from advpt.prompts.conditional import ConditionalLearner
from advpt.prompts.linear import LinearClassifier
from tests.helpers import layouts, towers
from tests.helpers.other_programs import open_clip_weights, run_example, transformers_folder
from tests.helpers.saved_models import NAMES, model_of


def digits(n: int) -> list[Image.Image]:
    """Of the test images, spread over the classes."""
    rows = DIGITS.split().test
    return [DIGITS.draw(Path(), row) for row in rows[:: len(rows) // n]][:n]


def demo_model(scale: float = 1.0) -> Model:
    backbone = backbone_of("DemoCLIP", democlip.load())
    prompt = from_templates(backbone.text, DIGIT_NAMES, ["a photo of the digit {}."], backbone.logit_scale * scale)
    return model_of(backbone, prompt, DIGIT_NAMES)


@pytest.fixture(scope="module")
def demo() -> Model:
    return demo_model()


def metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[export.METADATA])


def read_head(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


# --- the head -------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("program", ("open_clip", "transformers"))
def test_the_head_gives_our_logits_in_other_programs(program: str, demo: Model, tmp_path: Path, monkeypatch) -> None:
    """Digits through the lines of the documentation, with each program's own preprocessing in open_clip."""
    make = open_clip_weights if program == "open_clip" else transformers_folder
    changes = make(tmp_path, demo.backbone)
    export.to_safetensors(demo, tmp_path / "head.safetensors")
    monkeypatch.chdir(tmp_path)
    (picture,) = digits(1)
    picture.convert("RGB").resize((32, 32)).save("photo.jpg", quality=100)
    space = run_example(f"The head in {program}", changes)
    embedded = space["embeds"] if program == "transformers" else space["features"]
    pixels = demo.preprocessing(Image.open("photo.jpg"))[None]
    assert towers.apart(unit(embedded), unit(demo.embed(pixels))) <= 1e-5
    assert float((space["logits"] - demo(pixels)).abs().max()) <= 1e-3
    named = run_example("Class names", {}, logits=space["logits"])
    assert named["label"] == demo.predict(["photo.jpg"])[0].label
    pixels = torch.stack([demo.preprocessing(each) for each in digits(40)])
    theirs, ours = features_of(space["clip"], demo, pixels), unit(demo.embed(pixels))
    assert towers.apart(theirs, ours) <= 1e-5
    head = space["head"]
    assert float((head["logit_scale"] * theirs @ head["text_features"].T - demo(pixels)).abs().max()) <= 1e-3
    assert len(set(demo(pixels).argmax(1).tolist())) > 3


def unit(embeddings: Tensor) -> Tensor:
    return torch.nn.functional.normalize(embeddings, dim=-1)


def features_of(clip: Any, model: Model, pixels: Tensor) -> Tensor:
    """Of open_clip's or transformers' model, for the same pixels."""
    normalised = (pixels - model.image.mean) / model.image.std
    return unit(clip.encode_image(normalised) if hasattr(clip, "encode_image") else clip(normalised).image_embeds)


def test_a_head_says_what_it_is_of(demo: Model, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    about = export.to_safetensors(demo, path)
    assert metadata(path) == json.loads(json.dumps(about)) and about["classnames"] == list(DIGIT_NAMES)
    backbone = demo.backbone
    assert about["backbone"] == {
        "name": "DemoCLIP", "image": backbone.image_digest, "text": backbone.text_digest, "activation": "quickgelu",
        "source": None,
    }  # fmt: skip
    assert about["prompt"] == demo.classifier.digest and about["image_tower"] is None
    assert about["preprocessing"] == {
        "size": [32, 32], "interpolation": "bicubic", "resize": "shortest",
        "mean": list(backbone.card.image.mean), "std": list(backbone.card.image.std),
    }  # fmt: skip
    head = read_head(path)
    assert sorted(head) == ["logit_scale", "text_features"] and torch.equal(head["text_features"], demo.text_features)
    assert float(head["logit_scale"]) == pytest.approx(demo.logit_scale) and about["trainer"] == "ZeroshotCLIP"


@torch.no_grad()
def test_a_linear_probe_is_a_linear_layer(tmp_path: Path) -> None:
    backbone, draws = towers.make("OpenAI"), torch.Generator().manual_seed(0)
    probe = LinearClassifier(torch.randn(3, 32, generator=draws), 1.0, torch.randn(3, generator=draws))
    model = model_of(backbone, probe, trainer="LinearProbe")
    assert export.to_safetensors(model, tmp_path / "h")["trainer"] == "LinearProbe"
    head, pixels = read_head(tmp_path / "h"), towers.pixels(backbone)
    assert sorted(head) == ["bias", "weight"]
    assert torch.allclose(torch.nn.functional.linear(model.embed(pixels), **head), model(pixels), atol=1e-5)


@torch.no_grad()
def test_the_bias_of_a_siglip_is_in_its_head(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    backbone = towers.make("SigLIP")
    model = model_of(backbone)
    export.to_safetensors(model, tmp_path / "h")
    head, pixels = read_head(tmp_path / "h"), towers.pixels(backbone)
    logits = head["logit_scale"] * unit(model.embed(pixels)) @ head["text_features"].T
    assert float(head["logit_bias"]) == -10 == metadata(tmp_path / "h")["logit_bias"]
    assert torch.allclose((logits + head["logit_bias"]).sigmoid(), model.probabilities(pixels), atol=1e-6)


def test_a_head_names_the_image_tower_that_it_needs(tmp_path: Path) -> None:
    backbone = towers.make("OpenAI")
    folder = tmp_path / "image_encoder"
    folder.mkdir()
    model = model_of(backbone, trainer="TeCoA", source=folder / "model.pth.tar-2")
    assert export.facts(model)["image_tower"] == {"file": "", "trainer": "TeCoA"}
    provenance = tuned_tower.Provenance(
        base=tuned_tower.Base.of(backbone), image=backbone.image_digest, activation="quickgelu", mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0), size=(32, 32), trainer="TeCoA", dataset="Digits", shots=0, seed=1, epoch=2,
    )  # fmt: skip
    for image, file in ((backbone.image_digest, "image_encoder/tower.safetensors"), ("0" * 64, "")):
        of_epoch = dataclasses.replace(provenance, image=image)
        tuned_tower.write(folder / tuned_tower.FILE, model.image.visual.state_dict(), of_epoch)
        assert export.facts(model)["image_tower"] == {"file": file, "trainer": "TeCoA"}
    backbone.image_file = {"name": "fare.pt", "sha256": "ab"}
    assert export.facts(model_of(backbone))["image_tower"] == {"name": "fare.pt", "sha256": "ab"}


# --- ONNX -----------------------------------------------------------------------------------------------------------


def written(model: Model, path: Path) -> export.Difference:
    for package in export.PACKAGES:
        pytest.importorskip(package)
    difference = export.to_onnx(model, path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    return difference


@torch.no_grad()
def assert_is_ours(model: Model, path: Path, pixels: Tensor, parts: tuple[int, ...]) -> dict[str, Any]:
    """Embeddings within 1e-5, relative, and logits within 1e-3, in batches of these sizes; what its metadata say."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    assert sum(parts) == len(pixels)
    for part in pixels.split(list(parts)):
        logits, features = map(torch.from_numpy, session.run(["logits", "features"], {"pixels": part.numpy()}))
        assert float((logits - model(part)).abs().max()) <= 1e-3
        assert towers.apart(features, unit(model.embed(part))) <= 1e-5
    return json.loads(session.get_modelmeta().custom_metadata_map[export.METADATA])


def test_onnx_gives_our_logits_on_digits(demo: Model, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "model.onnx"
    difference = written(demo, path)
    assert 0 < difference.logits <= 1e-3 and 0 < difference.features <= 1e-5
    pixels = torch.stack([demo.preprocessing(each) for each in digits(40)])
    about = assert_is_ours(demo, path, pixels, (1, 2, 37))
    assert about == export.facts(demo)
    weights = sum(weight.numel() * 4 for weight in demo.image.parameters())
    assert weights < path.stat().st_size < 1.2 * weights  # the text tower is not in it
    monkeypatch.chdir(tmp_path)
    space = run_example("ONNX", {}, pixels=pixels.numpy())
    assert space["about"] == about and space["logits"].shape == (40, 10) and space["features"].shape == (40, 128)
    assert_other_numbers_are_told_apart(demo, path)


@torch.no_grad()
def assert_other_numbers_are_told_apart(demo: Model, path: Path) -> None:
    """A file of another model, and numbers that are none, are not ours."""
    assert export.compare(demo, path).is_small
    scaled = export.compare(demo_model(1.001), path)
    assert not scaled.is_small and scaled.features <= 1e-5 < 1e-3 < scaled.logits
    other = demo_model()
    other.classifier.features[0, 0] = float("nan")
    assert not export.compare(other, path).is_small
    other = demo_model()
    next(iter(other.image.parameters())).data.mul_(1.01)
    assert export.compare(other, path).features > 1e-5
    backbone = demo.backbone
    fewer = model_of(backbone, from_templates(backbone.text, DIGIT_NAMES[:1], ["{}"], 1.0), DIGIT_NAMES[:1])
    assert not export.compare(fewer, path).is_small


@pytest.mark.parametrize("experts", (0, 3), ids=("tensors", "mixture"))
def test_prompts_among_the_tokens_of_an_image_are_in_an_onnx_model(experts: int, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = backbone_of("wide", towers.shake(build(layouts.WIDE)))
    more = {"experts": experts, "router": "hybrid"} if experts else {}
    learner = layouts.make(backbone, "independent", **more)
    prompt = learner.classifier(backbone.text, backbone.logit_scale, torch.zeros(len(layouts.NAMES), 32))
    model = model_of(backbone, prompt, layouts.NAMES)
    written(model, tmp_path / "m.onnx")
    assert_is_ours(model, tmp_path / "m.onnx", layouts.pixels(12), (1, 11))
    with pytest.raises(ConfigError, match="tokens of the image.*Use --to onnx"):
        export.to_safetensors(model, tmp_path / "h")


def test_a_resnet_is_an_onnx_model(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(Architecture(32, 64, (1, 1, 1, 1), 16, None, 77, 49408, 64, 1))
    backbone = backbone_of("RN", towers.shake(model))
    ours = model_of(backbone)
    written(ours, tmp_path / "m.onnx")
    assert_is_ours(ours, tmp_path / "m.onnx", towers.pixels(backbone, 4), (1, 3))


# --- refusals -------------------------------------------------------------------------------------------------------


def test_what_no_file_can_hold_is_refused(tmp_path: Path, monkeypatch) -> None:
    backbone = towers.make("OpenAI")
    context = layouts.settings("text", depth=1)
    learner = ConditionalLearner(backbone.text, list(NAMES), context, torch.Generator().manual_seed(0), backbone.card)
    features = model_of(backbone).text_features
    conditional = model_of(backbone, learner.classifier(backbone.text, 100.0, features))
    for write in (export.to_safetensors, export.to_onnx):
        with pytest.raises(ConfigError, match="change with every image"):
            write(conditional, tmp_path / "x")
        for behind in ({"defense": "rescale"}, {"test_time": "ttc"}):
            with pytest.raises(ConfigError, match="has a defense"):
                write(model_of(backbone, **behind), tmp_path / "x")
    monkeypatch.setattr(export, "MOST_BYTES", 2_793_983)
    for package in export.PACKAGES:
        pytest.importorskip(package)
    with pytest.raises(ConfigError, match="an ONNX file holds at most 2 GB"):
        export.to_onnx(model_of(backbone), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", export.PACKAGES)
def test_a_missing_package_names_the_extra(package: str, tmp_path: Path, monkeypatch) -> None:
    for name in export.PACKAGES[: export.PACKAGES.index(package)]:
        pytest.importorskip(name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(WeightsError, match=rf'package {package}, which is not installed.*pip install "advpt\[onnx\]"'):
        export.to_onnx(model_of(towers.make("OpenAI")), tmp_path / "x")


def test_nothing_is_written_where_numbers_differ(demo: Model, tmp_path: Path, monkeypatch) -> None:
    for package in export.PACKAGES:
        pytest.importorskip(package)
    monkeypatch.setattr(export, "write_onnx", lambda module, pixels, path, about: path.write_bytes(b"x"))
    for difference in (export.Difference(2e-3, 0.0), export.Difference(0.0, 2e-5), export.Difference(float("nan"), 0)):
        monkeypatch.setattr(export, "compare", lambda model, path, found=difference: found)
        with pytest.raises(WeightsError, match="differs from ours by.*nothing was written"):
            export.to_onnx(demo, tmp_path / "x.onnx")
    monkeypatch.undo()

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such operation\nat line 7")

    monkeypatch.setattr(torch.onnx, "export", broken)
    with pytest.raises(WeightsError, match="cannot be written as ONNX: no such operation. Try other versions"):
        export.to_onnx(demo, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []
