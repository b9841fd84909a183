"""The verb ``export``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from advpt import export
from advpt.cli import export as verb
from advpt.cli import main
from tests.helpers.saved_models import zero_shot_run
from tests.helpers.workspace import Workspace

QUICK = ("OPTIM.MAX_EPOCH", "1", "OPTIM.WARMUP_EPOCH", "-1", "EVAL.ATTACKS", "()")


def about_file(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["advpt"])


def test_a_tuned_prompt_becomes_a_head(workspace: Workspace, capsys) -> None:
    workspace.run(*QUICK)
    assert main(["export", str(workspace.output)]) == 0
    path = workspace.output / "head.safetensors"
    assert capsys.readouterr().out == f"wrote {path}: text features of 3 classes for tiny\n"
    about = about_file(path)
    assert about["classnames"] == ["red_fox", "owl", "sea"] and about["seed"] == 1 and about["trainer"] == "AdvPT"
    assert about["dataset"] == "TinyPhotos" and "bank" in about["training"] and about["image_tower"] is None
    workspace.run(*QUICK)  # a file more is no other run


def test_a_tuned_tower_is_named(workspace: Workspace, capsys) -> None:
    workspace.run(*QUICK, "TRAINER.FASTAT.ATTACK", "pgd1-ce@4/a5", trainer="FastAT")
    assert main(["export", str(workspace.output), "--output", str(workspace.folder)]) == 0
    out = capsys.readouterr().out
    assert "the run tuned the image tower, and the head works with image_encoder/tower.safetensors alone" in out
    about = about_file(workspace.folder / "head.safetensors")
    assert about["image_tower"] == {"file": "image_encoder/tower.safetensors", "trainer": "FastAT"}
    (workspace.output / "image_encoder" / "tower.safetensors").unlink()
    assert main(["export", str(workspace.output), "--output", str(workspace.folder / "x" / "y")]) == 0
    assert "has no file of it; use --to onnx" in capsys.readouterr().out
    assert (workspace.folder / "x" / "y").is_file()


def test_a_robust_tower_is_named() -> None:
    about = {"trainer": "AdvPT", "classnames": ["a"], "backbone": {"name": "ViT-B/32"}}
    for more, place in (({}, "a file"), ({"file": "x.pt", "repository": "a/b"}, "a/b")):
        text = verb.about_head({**about, "image_tower": {"sha256": "0123456789abcdef", **more}})
        assert text.endswith(f"of the run alone ({place}, SHA-256 0123456789ab), not with ViT-B/32's own")
    probe = verb.about_head({**about, "trainer": "LinearProbe", "image_tower": None})
    assert probe == "a linear layer of 1 classes for ViT-B/32"


def test_an_onnx_model_is_compared_and_named(tmp_path: Path, monkeypatch, capsys) -> None:
    for package in export.PACKAGES:
        pytest.importorskip(package)
    made = []

    def write(model, path):
        made.append(path)
        return export.Difference(1.5e-6, 4e-7)

    monkeypatch.setattr(verb, "to_onnx", write)
    run = zero_shot_run(tmp_path / "run")
    assert main(["export", str(run), "--to", "onnx"]) == 0
    assert made == [run / "model.onnx"] and capsys.readouterr().out == (
        f"wrote {run / 'model.onnx'}: pixels [b, 3, 32, 32] in [0, 1] to logits [b, 10]; it differs from ours by "
        "1.5e-06 in a logit and 4.0e-07 of the embeddings\n"
    )


def test_mistakes_are_sentences(tmp_path: Path, monkeypatch, capsys) -> None:
    run = zero_shot_run(tmp_path / "run")
    for words, sentence in (
        ((tmp_path / "none",), "none does not exist; give the folder of a finished run"),
        ((run, "--output", run / "zero_shot" / "prompt.json" / "x"), "could not be written: "),
    ):
        assert main(["export", *map(str, words)]) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(run), "--to", "onnx"]) == 2
    assert 'needs the package onnx, which is not installed. Run pip install "advpt[onnx]"' in capsys.readouterr().err
