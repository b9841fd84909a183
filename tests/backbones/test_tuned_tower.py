"""Files of tuned image towers: whole, with what they were made from, readable by open readers of safetensors."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from advpt.backbones import tuned_tower
from advpt.backbones.tuned_tower import Base, Provenance
from advpt.errors import StorageError, WeightsError

MADE = Provenance(
    base=Base(name="ViT-B/32", image="a" * 64, text="b" * 64),
    image="c" * 64,
    activation="quickgelu",
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    size=(224, 224),
    trainer="FARE",
    dataset="ImageNet",
    shots=16,
    seed=1,
    epoch=2,
    training={"attack": "pgd10-l2@4/a1", "images": 16000},
)
TENSORS = {"proj": torch.rand(4, 3), "conv1.weight": torch.rand(2, 3).T}


def test_a_tower_comes_back_with_its_provenance(tmp_path):
    path = tmp_path / "image_encoder" / tuned_tower.FILE
    tuned_tower.write(path, TENSORS, MADE)
    assert tuned_tower.read_provenance(path) == MADE
    with safe_open(path, framework="pt") as file:
        assert {name: file.get_tensor(name).equal(value) for name, value in TENSORS.items()} == dict.fromkeys(
            TENSORS, True
        )
        about = json.loads(file.metadata()["advpt"])
    assert about["format"] == 1 and about["base"]["name"] == "ViT-B/32" and about["training"] == MADE.training
    again = tmp_path / tuned_tower.FILE
    tuned_tower.write(again, TENSORS, MADE)
    assert again.read_bytes() == path.read_bytes(), "one tower has one SHA-256"


def test_a_tower_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / tuned_tower.FILE
    tuned_tower.write(path, TENSORS, MADE)
    before = path.read_bytes()

    def dies(tensors, partial, metadata):
        partial.write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(tuned_tower, "save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        tuned_tower.write(path, TENSORS, dataclasses.replace(MADE, seed=2))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        tuned_tower.write(tmp_path / "file" / tuned_tower.FILE, TENSORS, MADE)


def test_files_of_others_do_not_say(tmp_path):
    save_file({"proj": TENSORS["proj"]}, tmp_path / "bare.safetensors")
    (tmp_path / "tower.pt").write_bytes(b"anything")
    assert tuned_tower.read_provenance(tmp_path / "bare.safetensors") is None
    assert tuned_tower.read_provenance(tmp_path / "tower.pt") is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "of format 2, this version reads 1"),
        ({"mean": [0.1, 0.2]}, "mean is .*expected a list of 3"),
        ({"base": {"name": "ViT-B/32"}}, "base.image is missing"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(tmp_path, changes, reason):
    path = tmp_path / tuned_tower.FILE
    tuned_tower.write(path, TENSORS, MADE)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["advpt"]) | changes
    save_file({"proj": TENSORS["proj"]}, path, metadata={"advpt": json.dumps(about)})
    with pytest.raises(WeightsError, match=reason):
        tuned_tower.read_provenance(path)


@pytest.mark.parametrize("damage", ["cut", "no JSON", "no object"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = tmp_path / tuned_tower.FILE
    tuned_tower.write(path, TENSORS, MADE)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        text = "{" if damage == "no JSON" else "[1]"
        save_file({"proj": TENSORS["proj"]}, path, metadata={"advpt": text})
    with pytest.raises(WeightsError, match="tower.safetensors"):
        tuned_tower.read_provenance(path)
