"""DiffPure's path at full size with random weights: ADM 256 (552,814,086 parameters) before a random ViT-B/16.

    python benchmarks/diffpure_full_size.py PHOTO [PHOTO ...] [--calls 2]

Random weights purify nothing; this measures time and memory of the path. At t = 150 a purification has 150 calls.
"""

from __future__ import annotations

import argparse
import logging
import resource
import time
from pathlib import Path

import torch

from advpt.attacks.noise import SampleNoise
from advpt.backbones.clip import OFFICIAL, backbone_of, build
from advpt.data.images import Preprocessing, read_image
from advpt.defenses import adm
from advpt.defenses.diffpure import DiffPure, UNet

log = logging.getLogger(__name__)
STEPS = 150


def say(what: str, since: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    log.info("%s: %.1f s, peak memory %.1f GiB", what, time.monotonic() - since, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--calls", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    started = time.monotonic()
    pixels = torch.stack([read_image(path, Preprocessing((224, 224), "bicubic"))[0] for path in args.photos])
    clip = backbone_of("ViT-B/16", build(OFFICIAL["ViT-B/16"]))
    say(f"{len(pixels)} photographs and a random ViT-B/16", started)
    started = time.monotonic()
    unet = adm.build(adm.ADM_256).eval().requires_grad_(False)
    say(f"random ADM 256 ({sum(p.numel() for p in unet.parameters()):,} parameters)", started)
    stride = -(-STEPS // args.calls)
    defense = DiffPure(t=STEPS, stride=stride, model=UNet(unet), size=256)
    started = time.monotonic()
    with torch.no_grad():
        purified = defense(pixels, SampleNoise([str(path) for path in args.photos], 0))
        say(f"purified with {args.calls} calls (stride {stride}) at {torch.get_num_threads()} threads", started)
        embedded = clip.require_image()(purified)
    each = (time.monotonic() - started) / args.calls / len(pixels)
    log.info(
        "embeddings %s; %.1f s per call and image, %.0f min an image", list(embedded.shape), each, each * STEPS / 60
    )


if __name__ == "__main__":
    main()
