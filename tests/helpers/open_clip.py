"""Small configurations of open_clip's classes, and models of them with random weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
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


def write_folder(folder: Path, config: dict[str, Any], seed: int = 0, **pixels: Any) -> Path:
    """A folder as a repository of the hub has it: a configuration, and random weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    whole = {"model_cfg": config, "preprocess_cfg": PREPROCESS | pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    state = {name: value.contiguous() for name, value in build(config, seed).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def build(config: dict[str, Any], seed: int = 0) -> nn.Module:
    """open_clip's own class with random weights, in evaluation mode."""
    from open_clip.model import CLIP, CustomTextCLIP

    config = json.loads(json.dumps(config))
    for name in ("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode"):
        config["text_cfg"].pop(name, None)
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(**config).float().eval()
