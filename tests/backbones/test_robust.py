"""Robust image towers: the published formats load strictly, and what does not belong is refused with a reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advpt.backbones.clip import Architecture, build
from advpt.backbones.load import load_backbone
from advpt.errors import WeightsError
from advpt.files import file_digest
from advpt.settings import BackboneSettings

OTHER = Architecture(64, 32, 2, 128, 8, 77, 49408, 64, 2)


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


def test_what_does_not_fit_is_refused(tiny_state: dict[str, Tensor], tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "tower.pt"
    settings = BackboneSettings("tiny", str(tiny_weights), False, str(path), activation="quickgelu")
    with pytest.raises(WeightsError, match="there is no such file. Where they come from: TeCoA"):
        load_backbone(settings)
    mine = tower(base=tiny_state)
    lacking = {k: v for k, v in mine.items() if k != "proj"}
    for found, said in (
        (tower(arch=OTHER), r"no image tower of tiny: \S+ has shape \[128.*trained from"),
        (lacking, r"1 of \d+ tensors are missing \(the first is proj\)"),
        (mine | {"head": torch.zeros(1)}, r"1 are unknown \(the first is head\)"),
        (mine | {"proj": mine["proj"] * float("nan")}, "proj is not finite"),
        ([1, 2], "holds no state dict of tensors; expected a robust image tower. TeCoA"),
    ):
        torch.save(found, path)
        with pytest.raises(WeightsError, match=said):
            load_backbone(settings)
    torch.save(mine, path)
    with pytest.raises(WeightsError, match="IMAGE_ACTIVATION is 'gelu'.*LAION"):
        load_backbone(dataclasses.replace(settings, image_activation="gelu"))
