"""OpenAI's ADM diffusion models through ``diffusers``: the key map, the order of attention's rows, and strict loading.

ADM keeps the query, key and value rows of an attention head together ([head][q, k, v][row]), diffusers keeps all
queries together, then all keys, then all values. Cutting ADM's weight into three equal parts loads without complaint
and is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from advpt.checkpoints import open_safetensors
from advpt.defenses.weights import WeightFile
from advpt.errors import DefenseError, WeightsError

PUBLISHED = WeightFile(
    "256x256_diffusion_uncond.pt",
    "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
    "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",  # as recorded in DiscoArt 0.12.1's model list
)
ADM_256: dict[str, Any] = json.loads(Path(__file__).with_name("adm_256.json").read_text())  # in diffusers' words
# Settings that no tensor shows: part of a bank's key where a user's own file differs from OpenAI's model.
UNSEEN = ("center_input_sample", "time_embedding_type", "flip_sin_to_cos", "freq_shift", "attention_head_dim",
          "norm_num_groups", "attn_norm_num_groups", "norm_eps", "act_fn", "mid_block_scale_factor")  # fmt: skip
CONFIG = "unet_config"  # the metadata entry of a user's own safetensors file


def build(config: Mapping[str, Any]) -> nn.Module:
    """A randomly initialised ``diffusers.UNet2DModel``.

    Raises:
        DefenseError: diffusers is not installed. WeightsError: it refuses the configuration.
    """
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise DefenseError(f'DiffPure needs diffusers ({error}); pip install "advpt[diffpure]"') from error
    try:
        return UNet2DModel(**config)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"diffusers does not accept this UNet configuration: {error}") from error


def key_map(config: Mapping[str, Any]) -> dict[str, str]:
    """ADM's module paths and diffusers' for the same modules: residual blocks, attentions and single layers."""
    names = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
    }
    layers, place = config["layers_per_block"], 1
    last = len(config["down_block_types"]) - 1
    for level, kind in enumerate(config["down_block_types"]):
        for layer in range(layers):
            names[f"input_blocks.{place}.0"] = f"down_blocks.{level}.resnets.{layer}"
            if kind.startswith("Attn"):
                names[f"input_blocks.{place}.1"] = f"down_blocks.{level}.attentions.{layer}"
            place += 1
        if level < last:
            names[f"input_blocks.{place}.0"] = f"down_blocks.{level}.downsamplers.0"
            place += 1
    place = 0
    for level, kind in enumerate(config["up_block_types"]):
        attention = kind.startswith("Attn")
        for layer in range(layers + 1):
            names[f"output_blocks.{place}.0"] = f"up_blocks.{level}.resnets.{layer}"
            if attention:
                names[f"output_blocks.{place}.1"] = f"up_blocks.{level}.attentions.{layer}"
            if layer == layers and level < last:
                names[f"output_blocks.{place}.{2 if attention else 1}"] = f"up_blocks.{level}.upsamplers.0"
            place += 1
    return names


_INSIDE = {  # of a residual block, then of an attention
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "norm": "group_norm",
    "proj_out": "to_out.0",
}


def split_qkv(fused: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """ADM's fused ``[3 C, ...]`` rows, ordered [head][q, k, v][row], as q, k and v ``[C, ...]``, ordered
    [head][row]."""
    heads = len(fused) // (3 * head_dim)
    parts = fused.reshape(heads, 3, head_dim, *fused.shape[1:]).transpose(0, 1)
    q, k, v = (part.reshape(heads * head_dim, *fused.shape[1:]) for part in parts)
    return q, k, v


def convert(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """ADM's tensors under diffusers' names. Raises WeightsError for one that ADM of this configuration lacks."""
    modules, converted = key_map(config), {}
    for name, value in state.items():
        path, kind = name.rsplit(".", 1)
        if path in modules:
            converted[f"{modules[path]}.{kind}"] = value
            continue
        words = path.split(".")  # "input_blocks.4.0.in_layers.0" or "middle_block.1.qkv": a module and a layer in it
        size = next((n for n in (3, 2) if ".".join(words[:n]) in modules), 0)
        owner, layer = modules.get(".".join(words[:size])), ".".join(words[size:])
        if owner and layer == "qkv":
            for part, tensor in zip("qkv", split_qkv(_flat(value), config["attention_head_dim"])):
                converted[f"{owner}.to_{part}.{kind}"] = tensor
        elif owner and layer in _INSIDE:
            converted[f"{owner}.{_INSIDE[layer]}.{kind}"] = _flat(value) if layer == "proj_out" else value
        else:
            raise WeightsError(f"{name} belongs to no part of this diffusion model; is it the right checkpoint?")
    return converted


def _flat(weight: Tensor) -> Tensor:
    """A convolution of width 1 over positions as a matrix."""
    return weight.squeeze(-1) if weight.ndim == 3 else weight


def reads(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that no tensor shows and in which a UNet differs from OpenAI's model."""
    return {name: config.get(name) for name in UNSEEN if config.get(name) != ADM_256[name]}


def load(weights: str = "") -> tuple[nn.Module, dict[str, Any]]:
    """A frozen UNet and its configuration: OpenAI's 256 x 256 model, or a user's own file from :func:`save`.

    Raises:
        WeightsError: missing, another hash, damaged, or tensors missing, unexpected or of another shape.
        DefenseError: diffusers is not installed.
    """
    if weights:
        config = _config_of(PUBLISHED.find(weights))
        state = PUBLISHED.read(weights)
    else:
        config = ADM_256
        build({**config, "block_out_channels": [64] * 6})  # fails without diffusers, before 2 GB are read
        state = convert(PUBLISHED.read(), config)
    return from_state(state, config, str(PUBLISHED.find(weights))), config


def from_state(state: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> nn.Module:
    """A frozen UNet with these tensors, loaded strictly. Raises WeightsError."""
    with torch.device("meta"):
        model = build(config)
    try:
        model.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{source} does not fit its configuration: {str(error)[:600]}") from error
    return model.eval().requires_grad_(False)


def save(model: nn.Module, config: Mapping[str, Any], path: Path) -> None:
    """Write a UNet as safetensors with its configuration, for ``weights=NAME``."""
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, path, metadata={CONFIG: json.dumps(dict(config), sort_keys=True)})


def _config_of(path: Path) -> dict[str, Any]:
    try:
        with open_safetensors(path) as file:
            return dict(json.loads((file.metadata() or {})[CONFIG]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a diffusion model of this project (safetensors with a {CONFIG!r} entry in its metadata): "
            f"{error}; write it with advpt.defenses.adm.save"
        ) from error
