"""Small configurations of open_clip's classes, and models of them with random weights."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import nn

VIT: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
PREPROCESS: dict[str, Any] = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def changed(config: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A copy with other values: ``vision={...}``, ``text={...}`` inside the towers, the rest at the top."""
    made = copy.deepcopy(config)
    made["vision_cfg"] |= parts.pop("vision", {})
    made["text_cfg"] |= parts.pop("text", {})
    return made | parts


def build(config: dict[str, Any], seed: int = 0) -> nn.Module:
    """open_clip's own class with random weights, in evaluation mode."""
    from open_clip.model import CLIP, CustomTextCLIP

    config = json.loads(json.dumps(config))
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(**config).float().eval()
