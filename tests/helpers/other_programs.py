"""A CLIP of OpenAI's format as open_clip and transformers know it, and the examples of docs/use.md."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone

ROOT = Path(__file__).resolve().parents[2]
NAMES = {  # of OpenAI's tensors in transformers
    "conv1.": "embeddings.patch_embedding.", "ln_pre.": "pre_layrnorm.", "ln_post.": "post_layernorm.",
    "transformer.resblocks.": "encoder.layers.", "ln_1.": "layer_norm1.", "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.", "mlp.c_proj.": "mlp.fc2.", "attn.out_proj.": "self_attn.out_proj.",
}  # fmt: skip


def example(title: str) -> str:
    """The lines below a heading of docs/use.md."""
    section = (ROOT / "docs" / "use.md").read_text(encoding="utf-8").split(f"### {title}\n")[1]
    return textwrap.dedent("".join(re.findall(r"(?m)^ {4}.*\n", section.split("\n###")[0])))


def run_example(title: str, changes: dict[str, str], **names: Any) -> dict[str, Any]:
    """What an example of docs/use.md defines, where each key of ``changes`` stands for its value."""
    code = example(title)
    for old, new in changes.items():
        assert old in code, f"{old} is not in the example {title}"
        code = code.replace(old, new)
    space: dict[str, Any] = dict(names)
    exec(code, space)
    return space


def open_clip_weights(folder: Path, backbone: Backbone) -> dict[str, str]:
    """Files that open_clip makes this ViT of; what stands for them in the example."""
    open_clip = pytest.importorskip("open_clip")
    card, state = backbone.card, backbone.model.state_dict()
    count = {tower: blocks(state, prefix) for tower, prefix in (("image", "visual."), ("text", ""))}
    vision = {
        "image_size": card.image.size[0], "layers": count["image"], "width": state["visual.proj"].shape[0],
        "patch_size": state["visual.conv1.weight"].shape[-1], "head_width": 64,
    }  # fmt: skip
    width = state["text_projection"].shape[0]
    text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": count["text"]}
    config = {"embed_dim": card.embed_dim, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    name = f"of-test-{card.embed_dim}-{count['image']}"
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.save(state, folder / "weights.pt")
    return {"ViT-B-16-quickgelu": name, '"openai"': repr(str(folder / "weights.pt"))}


def transformers_folder(folder: Path, backbone: Backbone) -> dict[str, str]:
    """A folder that transformers makes the image tower of; what stands for it in the example."""
    transformers = pytest.importorskip("transformers")
    state, size = backbone.require_image().visual.state_dict(), backbone.card.image.size[0]
    width = state["proj"].shape[0]
    config = transformers.CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, projection_dim=state["proj"].shape[1],
        num_hidden_layers=blocks(state),
        num_attention_heads=width // 64, image_size=size, patch_size=state["conv1.weight"].shape[-1],
        hidden_act="quick_gelu",
    )  # fmt: skip
    model = transformers.CLIPVisionModelWithProjection(config)
    missing = model.load_state_dict(named_by_transformers(state), strict=False)
    assert not missing.unexpected_keys and all("position_ids" in name for name in missing.missing_keys), missing
    model.save_pretrained(folder)
    crop = {"height": size, "width": size}
    transformers.CLIPImageProcessor(size={"shortest_edge": size}, crop_size=crop).save_pretrained(folder)
    return {'"openai/clip-vit-base-patch16"': repr(str(folder))}


def blocks(state: dict[str, Tensor], prefix: str = "") -> int:
    """The number of blocks of OpenAI's tower."""
    start = f"{prefix}transformer.resblocks."
    return len({name.removeprefix(start).partition(".")[0] for name in state if name.startswith(start)})


def named_by_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of OpenAI's image tower by the names of transformers' CLIPVisionModelWithProjection."""
    made = {}
    for name, value in state.items():
        if name == "proj":
            made["visual_projection.weight"] = value.T.contiguous()
        elif name in ("class_embedding", "positional_embedding"):
            other = {"class_embedding": "class_embedding", "positional_embedding": "position_embedding.weight"}[name]
            made[f"vision_model.embeddings.{other}"] = value
        else:
            for old, new in NAMES.items():
                name = name.replace(old, new)
            before, cut, end = name.partition("attn.in_proj_")
            parts = zip("qkv", value.chunk(3)) if cut else [("", value)]
            for part, tensor in parts:
                made[f"vision_model.{before}self_attn.{part}_proj.{end}" if cut else f"vision_model.{name}"] = tensor
    return made
