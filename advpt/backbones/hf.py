"""Tensors of transformers' ``CLIPModel`` by open_clip's names, which are OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from advpt.errors import WeightsError

_TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "logit_scale": "logit_scale",
}
_NORMS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",  # transformers' spelling
    "vision_model.post_layernorm": "visual.ln_post",
}
_PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_BUFFERS = re.compile(r"(text|vision)_model\.embeddings\.position_ids")


def from_clip_model(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a ``CLIPModel`` by open_clip's names.

    Args:
        state: by transformers' names. source: the file, for messages.

    Raises:
        WeightsError: a name that no ``CLIPModel`` has, or a block without one of its three projections.
    """
    made: dict[str, Tensor] = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if _BUFFERS.fullmatch(name):
            continue
        if name in _PROJECTIONS:
            made[_PROJECTIONS[name]] = value.T.contiguous()
            continue
        block = re.fullmatch(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        stem, _, kind = name.rpartition(".")
        if block is not None:
            tower, number, part, kind = block.groups()
            prefix = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{number}"
            if qkv := re.fullmatch(r"self_attn\.([qkv])_proj", part):
                attention.setdefault(f"{prefix}.attn.in_proj_{kind}", {})[qkv[1]] = value
                continue
            target = f"{prefix}.{_BLOCK[part]}.{kind}" if part in _BLOCK else ""
        else:
            target = _TOP.get(name) or (
                f"{_NORMS[stem]}.{kind}" if stem in _NORMS and kind in ("weight", "bias") else ""
            )
        if not target:
            raise WeightsError(
                f"{source} does not hold a CLIPModel of transformers, which has no tensor called {name!r}"
            )
        made[target] = value
    for target, parts in attention.items():
        if len(parts) < 3:
            raise WeightsError(f"{source} is cut off: of {target} only the parts {', '.join(sorted(parts))} are there")
        made[target] = torch.cat([parts[each] for each in "qkv"])
    return made
