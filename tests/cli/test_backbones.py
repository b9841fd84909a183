"""The verb ``backbones``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advpt.cli import main
from tests.helpers.hub import hub_repository
from tests.helpers.open_clip import VIT, changed

pytest.importorskip("open_clip")


def rows(printed: str) -> dict[str, str]:
    return {line.split()[0]: line for line in printed.splitlines()[2:] if line.strip()}


def test_the_verb_lists_what_each_model_can_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config = json.dumps({"model_cfg": changed(VIT, quick_gelu="TRUE")}).encode()
    hub_repository(tmp_path, "chs20/fare2-clip", {"open_clip_config.json": config, "open_clip_model.safetensors": b""})
    assert main(["backbones"]) == 0
    printed = capsys.readouterr().out
    listed = rows(printed)
    assert "MODEL.IMAGE_WEIGHTS: docs/backbones.md" in printed
    assert listed.keys() >= {"democlip", "vit_b16", "rn50", "laion_b16", "fare2_l14", "fare4_l14", "siglip_b16"}
    for name, parts in {
        "democlip": ("DemoCLIP", "32 shortest", "ViT", "shared prefix", "yes", "there"),
        "rn50": ("224 shortest", "ResNet", "shared prefix", " no "),
        "siglip_b16": ("open_clip:ViT-B-16-SigLIP/webli", "224 squash", "plain, 64 positions", "yes", "not there yet"),
        "fare2_l14": ("hf-hub:chs20/fare2-clip", "32 shortest", "shared prefix", "yes", "there"),
        "fare4_l14": ("its configuration is not in the cache", "not there yet"),
    }.items():
        assert all(part in listed[name] for part in parts), listed[name]


def test_a_backbones_file_says_the_activation_that_its_configuration_lacks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    config = json.dumps({"model_cfg": VIT}).encode()
    hub_repository(tmp_path, "chs20/fare2-clip", {"open_clip_config.json": config})
    assert main(["backbones", "fare2_l14"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("quickgelu") == 2 and " gelu" not in shown


def test_of_one_model_the_verb_shows_the_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbones", "laion_b32"]) == 0
    card = capsys.readouterr().out
    assert all(part in card for part in ("open_clip:ViT-B-32/laion2b_s34b_b79k", "image.activation", "gelu", "bicubic"))
    assert main(["backbones", "open_clip:ViT-L-14/openai"]) == 0 and "ViT-L/14" in capsys.readouterr().out
    assert main(["backbones", "my-own"]) == 2 and "nothing is known of 'my-own'" in capsys.readouterr().err
