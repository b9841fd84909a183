"""A small random diffusion model, to try DiffPure's code path without 2.2 GB of weights. Its numbers mean nothing.

python -m advpt.defenses.tiny tiny.safetensors      # into $ADVPT_WEIGHTS, or ~/.cache/advpt
python train.py --trainer AdvPT EVAL.DEFENSES "('diffpure/t=5/weights=tiny.safetensors',)"
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch

from advpt.defenses import adm
from advpt.defenses.weights import folder

log = logging.getLogger(__name__)

SHAPE: dict[str, Any] = adm.ADM_256 | {
    "sample_size": 32,
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "attention_head_dim": 32,
}


def write(name: str) -> Path:
    """Write ADM's design at 32 pixels, with 0.8 million random weights, as ``name`` in the weights folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = adm.build(SHAPE)
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    adm.save(model, SHAPE, path)
    return path


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("wrote %s: random weights, for trying the code only", write((sys.argv[1:] or ["tiny.safetensors"])[0]))
