"""ViT-B/16 of random weights in OpenAI's format on photographs, against onnxruntime, open_clip and transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from advpt import export
from advpt.backbones.clip import Architecture, backbone_of, build
from tests.helpers import towers
from tests.helpers.other_programs import open_clip_weights, run_example, transformers_folder
from tests.helpers.saved_models import model_of
from tests.test_export import assert_is_ours, features_of, unit, written

pytestmark = pytest.mark.slow
VIT_B16 = Architecture(512, 224, 12, 768, 16, 77, 49408, 64, 1)  # with a small text tower


@torch.no_grad()
def test_a_vit_b_16_on_photographs(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = sorted((test_data / "pets_sample" / "oxford_pets" / "images").glob("*.jpg"))[::40][:2]
    assert len(photos) == 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = build(VIT_B16)
    clip.logit_scale.fill_(4.60517)  # 100, as OpenAI's have
    backbone = backbone_of("ViT-B/16 of random weights", clip)
    model = model_of(backbone)
    pixels = torch.stack([model.preprocessing(Image.open(photo)) for photo in photos])
    embeddings = model.embed(pixels)
    ours, logits = unit(embeddings), model.classifier.logits(embeddings)
    assert towers.apart(ours[0], ours[1]) > 1e-3
    export.to_safetensors(model, tmp_path / "head.safetensors")
    Image.open(photos[0]).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    for title, make in (("open_clip", open_clip_weights), ("transformers", transformers_folder)):
        changes = make(tmp_path, backbone) | {"photo.jpg": "photo.png"}
        space = run_example(f"The head in {title}", changes)
        theirs = features_of(space["clip"], model, pixels)
        assert towers.apart(theirs, ours) <= 1e-5
        head = space["head"]
        assert float((head["logit_scale"] * theirs @ head["text_features"].T - logits).abs().max()) <= 1e-3
        assert float((space["logits"] - logits[:1]).abs().max()) <= 1e-3, title  # with its own preprocessing
    (tmp_path / "onnx").mkdir()
    written(model, tmp_path / "onnx" / "model.onnx")
    assert_is_ours(model, tmp_path / "onnx" / "model.onnx", pixels, (2,))
