"""ADM's network by hand, under its own tensor names and its own order of attention's rows: an oracle for the map.

Written from the paper (Dhariwal and Nichol, NeurIPS 2021) and the names and shapes in a checkpoint: residual blocks
with scale and shift, residual down- and upsampling, attention with all of a head's q, k, v rows together. Random
weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Three levels, attention on the last two, heads of 16.
CONFIG = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 6,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "block_out_channels": [32, 32, 64],
    "layers_per_block": 2,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 16,
    "norm_num_groups": 32,
    "attn_norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "mid_block_scale_factor": 1,
    "add_attention": True,
}


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class Residual(nn.Module):
    def __init__(self, before: int, after: int, embedding: int, resize: str = "") -> None:
        super().__init__()
        self.resize = resize
        self.in_layers = nn.Sequential(norm(before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * after))
        self.out_layers = nn.Sequential(norm(after), nn.SiLU(), nn.Identity(), nn.Conv2d(after, after, 3, padding=1))
        self.skip_connection = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def sized(self, x: Tensor) -> Tensor:
        if self.resize == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resize == "up" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[2](self.sized(F.silu(self.in_layers[0](x))))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, 1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(self.sized(x)) + self.out_layers[3](F.silu(h))


class Attention(nn.Module):
    """Rows of qkv: [head][q, k, v][row]."""

    def __init__(self, channels: int, head: int) -> None:
        super().__init__()
        self.heads = channels // head
        self.norm, self.qkv = norm(channels), nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        b, c, h, w = x.shape
        flat = x.reshape(b, c, h * w)
        fused = self.qkv(self.norm(flat)).reshape(b, self.heads, 3, c // self.heads, h * w)
        q, k, v = fused[:, :, 0], fused[:, :, 1], fused[:, :, 2]
        weight = torch.softmax(torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(c // self.heads), -1)
        mixed = torch.einsum("bhts,bhcs->bhct", weight, v).reshape(b, c, h * w)
        return x + self.proj_out(mixed).reshape(b, c, h, w)


class Steps(nn.Sequential):
    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for part in self:
            x = part(x) if isinstance(part, nn.Conv2d) else part(x, embedding)
        return x


class ADM(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        widths, layers, head = config["block_out_channels"], config["layers_per_block"], config["attention_head_dim"]
        self.base = widths[0]
        e = 4 * self.base
        self.time_embed = nn.Sequential(nn.Linear(self.base, e), nn.SiLU(), nn.Linear(e, e))
        blocks, width, kept = [Steps(nn.Conv2d(3, self.base, 3, padding=1))], self.base, [self.base]
        attends = [kind.startswith("Attn") for kind in config["down_block_types"]]
        for level, after in enumerate(widths):
            for _ in range(layers):
                parts = [Residual(width, after, e)] + ([Attention(after, head)] if attends[level] else [])
                blocks.append(Steps(*parts))
                width = after
                kept.append(width)
            if level < len(widths) - 1:
                blocks.append(Steps(Residual(width, width, e, "down")))
                kept.append(width)
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = Steps(Residual(width, width, e), Attention(width, head), Residual(width, width, e))
        blocks = []
        for level in reversed(range(len(widths))):
            for layer in range(layers + 1):
                parts = [Residual(width + kept.pop(), widths[level], e)]
                width = widths[level]
                parts += [Attention(width, head)] if attends[level] else []
                parts += [Residual(width, width, e, "up")] if layer == layers and level else []
                blocks.append(Steps(*parts))
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(norm(width), nn.SiLU(), nn.Conv2d(width, config["out_channels"], 3, padding=1))

    def forward(self, x: Tensor, index: int) -> Tensor:
        half = self.base // 2
        angles = index * torch.exp(-math.log(10000) * torch.arange(half) / half)
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()])[None].expand(len(x), -1))
        kept = []
        for block in self.input_blocks:
            x = block(x, embedding)
            kept.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], 1), embedding)
        return self.out(x)


def make_adm(seed: int = 0) -> ADM:
    """Random weights of an ordinary size (ADM's own initialisation has zeros in the places that matter here)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ADM(CONFIG).eval().requires_grad_(False)
