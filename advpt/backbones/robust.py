"""Adversarially trained image towers in the place of a CLIP's: the formats of TeCoA and FARE.

Files hold the tensors of OpenAI's ``visual``, bare (FARE and TeCoA of RobustVLM), under ``vision_encoder_state_dict``
(TeCoA's training code, APT) or ``state_dict``, each name perhaps behind ``module.`` or ``visual.``; or a whole CLIP in
OpenAI's or open_clip's names. No tensor shows what they were trained from: OpenAI's towers need QuickGELU
and those of LAION's CLIPs GELU, which load into each other without a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from advpt import checkpoints
from advpt.backbones.card import QUICKGELU
from advpt.errors import WeightsError
from advpt.files import tensor_digest

WRAPPERS = ("vision_encoder_state_dict", *checkpoints.WRAPPERS)
TEXT = ("token_embedding", "transformer", "ln_final", "positional_embedding", "text_projection")
SOURCES = (
    "TeCoA, ViT-B/32 and RN50: the folder named in the README of github.com/TreeLLi/APT (vitb32_eps4.pth.tar, ...), "
    "or github.com/cvlab-columbia/ZSRobust4FoundationModel; TeCoA and FARE, ViT-B/32 and ViT-L/14: the README of "
    "github.com/chs20/RobustVLM (vitb32_tecoa_eps_4.pt, ...)"
)


def read_tower(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the image tower in ``path``, and of the text tower if there is one, by OpenAI's names.

    Raises:
        WeightsError: missing or damaged file, or one that holds no image tower.
    """
    if not path.is_file():
        raise WeightsError(
            f"MODEL.IMAGE_WEIGHTS names {path}, and there is no such file. Where they come from: {SOURCES}"
        )
    tensors = checkpoints.read_state_dict(path, f"a robust image tower. {SOURCES}", WRAPPERS)
    visual = {name.removeprefix("visual."): value for name, value in tensors.items() if name.startswith("visual.")}
    if not visual:
        return tensors, {}
    other = {name.removeprefix("text."): value for name, value in tensors.items() if not name.startswith("visual.")}
    return visual, {name: value for name, value in other.items() if name.split(".")[0] in TEXT}


def tower_for(
    clip: Mapping[str, Tensor], name: str, path: Path, activation: str = QUICKGELU, expected: str = QUICKGELU
) -> dict[str, Tensor]:
    """The tensors in ``path`` for the image tower of a CLIP, by the names within ``visual``; every one of them fits.

    Args:
        clip: all tensors of the CLIP called ``name``. activation: what the tower was trained with, as its source says.
        expected: the activation of the CLIP.

    Raises:
        WeightsError: another architecture, names that are missing or left over, a text tower that is not this CLIP's,
            values that are not finite, or another activation than this CLIP's.
    """
    if activation != expected:
        raise WeightsError(
            f"MODEL.IMAGE_ACTIVATION is {activation!r}, and {name} has {expected}. Towers made from OpenAI's CLIPs "
            "need quickgelu and stand in OpenAI's; those made from LAION's need gelu and their CLIPs' text tower: "
            "MODEL.BACKBONE.NAME open_clip:ViT-B-32/laion2b_s34b_b79k MODEL.IMAGE_ACTIVATION gelu"
        )
    tower, text = read_tower(path)
    visual = {key.removeprefix("visual."): value for key, value in clip.items() if key.startswith("visual.")}
    if visual.keys() != tower.keys():
        lacking, more = sorted(visual.keys() - tower.keys()), sorted(tower.keys() - visual.keys())
        raise WeightsError(
            f"{path} is no image tower of {name}: {len(lacking)} of {len(visual)} tensors are missing"
            f"{f' (the first is {lacking[0]})' if lacking else ''}, {len(more)} are unknown"
            f"{f' (the first is {more[0]})' if more else ''}; name the backbone that it was trained from"
        )
    for key, value in visual.items():
        if value.shape != tower[key].shape:
            raise WeightsError(
                f"{path} is no image tower of {name}: {key} has shape {list(tower[key].shape)}, expected "
                f"{list(value.shape)}; name the backbone that it was trained from"
            )
        if not bool(torch.isfinite(tower[key]).all()):
            raise WeightsError(f"{path} is damaged: {key} is not finite; compare its SHA-256 with its source's")
    mine = {key.removeprefix("text."): value for key, value in clip.items() if not key.startswith("visual.")}
    mine = {key: value for key, value in mine.items() if key.split(".")[0] in TEXT}
    if text and tensor_digest(text) != tensor_digest(mine):
        raise WeightsError(
            f"{path} holds a whole CLIP whose text tower is not that of {name}: it was made from another CLIP, which "
            "may need another activation too. Robust towers of such files leave the text tower as it was"
        )
    return {key: value.float() if value.is_floating_point() else value for key, value in tower.items()}
