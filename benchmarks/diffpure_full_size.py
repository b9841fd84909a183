"""DiffPure's path at full size with random weights: ADM 256 (552,814,086 parameters) before a random ViT-B/16.

    python benchmarks/diffpure_full_size.py PHOTO [PHOTO ...] [--calls 2]

Random weights purify nothing; this measures time and memory of the path. At t = 150 a purification has 150 calls.
"""

import argparse
import time
from pathlib import Path

import torch
from bank import backbone
from common import device, peak_memory

from advpt.attacks.noise import SampleNoise
from advpt.data.images import Preprocessing, read_image
from advpt.defenses import adm
from advpt.defenses.diffpure import DiffPure, UNet

STEPS = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--calls", type=int, default=2)
    args = parser.parse_args()
    pixels = torch.stack([read_image(path, Preprocessing((224, 224), "bicubic"))[0] for path in args.photos]).to(
        device()
    )
    clip = backbone()
    unet = adm.build(adm.ADM_256).eval().requires_grad_(False).to(device())
    print(f"random ADM 256 ({sum(p.numel() for p in unet.parameters()):,} parameters) before a random ViT-B/16")
    stride = -(-STEPS // args.calls)
    defense = DiffPure(t=STEPS, stride=stride, model=UNet(unet), size=256)
    started = time.monotonic()
    with torch.no_grad():
        purified = defense(pixels, SampleNoise([str(path) for path in args.photos], 0))
        embedded = clip.require_image()(purified)
    seconds = time.monotonic() - started
    each = seconds / args.calls / len(pixels)
    print(
        f"{len(pixels)} photographs purified with {args.calls} calls (stride {stride}) at {torch.get_num_threads()} "
        f"threads and embedded as {list(embedded.shape)}: {seconds:.1f} s, {each:.1f} s per call and image, "
        f"{each * STEPS / 60:.0f} min an image; peak memory {peak_memory() / 1024:.1f} GiB"
    )


if __name__ == "__main__":
    main()
