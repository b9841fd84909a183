"""Building a bank: ours against the original loop (trainable weights) and against bare forward + input gradient.

All three attack the same photographs with PGD-10 on the embedding KL, ViT-B/16 with random weights. Ours is the whole
path of the library: files read and decoded, attack, embedding, checks, shard written.
"""

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from common import alternate, device, matrix_rate, peak_memory, workers
from measurements import Measurement, Report
from PIL import Image
from torch import Tensor, nn

from advpt.attacks import parse
from advpt.backbones.clip import OFFICIAL, Backbone, backbone_of, build
from advpt.backbones.load import load_backbone
from advpt.backbones.precision import in_precision
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet, Preprocessing, Sample
from advpt.settings import BackboneSettings

SMALL = "DemoCLIP"  # what a CPU can try every part of gpu.py with
STEPS, CHUNK = 10, 64
Encode = Callable[[Tensor], Tensor]  # pixels to embeddings


def backbone(name: str = "ViT-B/16") -> Backbone:
    """DemoCLIP, or an official CLIP with random weights."""
    if name == SMALL:
        return load_backbone(BackboneSettings(SMALL, "", False), device())
    torch.manual_seed(0)
    return backbone_of(name, build(OFFICIAL[name]), device())


def photographs(folder: Path, n: int, size: int = 224) -> ImageSet:
    """JPEG files of smooth noise, 300 x 260 pixels."""
    rng, samples = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        path = folder / f"{i:04d}.jpg"
        small = Image.fromarray(rng.integers(0, 255, (26, 30, 3), dtype=np.uint8))
        if not path.is_file():
            small.resize((300, 260), Image.Resampling.BICUBIC).save(path, quality=92)
        samples.append(Sample(path.name, str(path), i % 2))
    return ImageSet("bench", "train", tuple(samples), ("one", "two"), Preprocessing((size, size), "bicubic"))


def original_loop(model: Encode, images: ImageSet, batch: int, steps: int = STEPS) -> None:
    """As the released code does it: nothing is frozen, so every step also computes the gradients of all weights."""
    for pixels in (part.pixels.to(device()) for part in images.batches(range(len(images)), batch)):
        with torch.no_grad():
            clean = model(pixels)
        x = (pixels + torch.empty_like(pixels).uniform_(0, 8 / 255)).detach()
        for _ in range(steps):
            x.requires_grad_()
            loss = F.kl_div(model(x).log_softmax(-1), clean.softmax(-1), reduction="batchmean")
            loss.backward()
            with torch.no_grad():
                x = (pixels + (x + cast(Tensor, x.grad).sign() / 255 - pixels).clamp(-8 / 255, 8 / 255)).clamp(0, 1)
        with torch.no_grad():
            model(x)


def bare(encode: Encode, x: Tensor) -> None:
    """The least that PGD needs: forward and gradient of the input, step by step."""
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        torch.autograd.grad(encode(x).sum(), x)


@contextlib.contextmanager
def trainable(clip: Backbone) -> Iterator[nn.Module]:
    """The tower with gradients for all of its weights, as it comes from a file."""
    image = clip.require_image()
    image.requires_grad_(True)
    try:
        yield image
    finally:
        image.requires_grad_(False)
        for weight in image.parameters():
            weight.grad = None


def step(encode: Encode, pixels: Tensor) -> None:
    """Forward and gradient of the input, once."""
    x = pixels.clone().requires_grad_()
    torch.autograd.grad(encode(x).sum(), x)


def ways(clip: Backbone, images: ImageSet, folder: Path, precision: str = "fp32") -> dict[str, Callable[[], None]]:
    """Three ways to attack the images: ``ours`` builds a whole bank in ``folder`` (files read and decoded, attack,
    embedding, shard written), ``original`` is the original loop, ``bare`` only the passes, over one chunk's pixels."""
    chunk = min(CHUNK, len(images))
    pixels = next(images.batches(range(chunk), chunk)).pixels.to(clip.device)
    encode = in_precision(clip.require_image(), precision)

    def ours() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        cache = BankCache(folder, clip, lambda: clip, chunk=CHUNK, workers=workers(), precision=precision)
        cache.get(images, parse(f"pgd{STEPS}-fkl@8"))

    def original() -> None:
        with trainable(clip) as model:
            original_loop(model, images, chunk)

    def passes() -> None:
        for _ in range(len(images) // chunk):
            bare(encode, pixels)

    return {"ours": ours, "original": original, "bare": passes}


def run(report: Report) -> None:
    n, repeats = (256, 3) if torch.cuda.is_available() else (2, 1 if report.small else 2)
    clip = backbone()
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(Path(folder, "images"), n)
        seconds = alternate(ways(clip, images, Path(folder, "banks")), repeats, warm=not report.small)
        pixels = next(images.batches(range(min(n, CHUNK)), CHUNK)).pixels.to(device())
    sizes = f"ViT-B/16, PGD-{STEPS}, {n} photographs, chunk {len(pixels)}, median of {repeats}"
    of_floor = seconds["ours"] * matrix_rate() / (n * STEPS * 2 * image_flops(clip))
    note = f"{sizes}; {n / seconds['ours']:.2f} images/s; {of_floor:.2f}x of the floor; peak {peak_memory():.0f} MiB"
    label = "bank building against the original loop, trainable weights"
    report.compare(label, seconds["ours"], seconds["original"], wanted=1.3, note=note)
    share, note = seconds["bare"] / seconds["ours"], f"{sizes}; the ratio is bare / ours, at most 1"
    report.add(Measurement("bank building against bare forward + input gradient", seconds["ours"], "s", seconds["bare"],
                           share, "90 % of its rate", share >= 0.9, note))  # fmt: skip
    compare_half_precision(report, clip.require_image(), pixels, 1 if report.small else 3)


def compare_half_precision(report: Report, encode: nn.Module, pixels: Tensor, repeats: int) -> None:
    """The same passes in bfloat16 (BANK.PREC amp), and how far its embeddings are from float32's."""
    half = in_precision(encode, "amp")
    with torch.no_grad():
        a, b = encode(pixels), half(pixels)
    ways = {"plain": functools.partial(step, encode, pixels), "half": functools.partial(step, half, pixels)}
    seconds = alternate(ways, repeats)
    relative = float(((a - b).norm(dim=1) / a.norm(dim=1)).max())
    note = f"forward + input gradient, {len(pixels)} images; embeddings differ by at most {relative:.1e} relative"
    ours, reference = seconds["half"], seconds["plain"]
    report.add(Measurement("BANK.PREC amp against float32", ours, "s", reference, reference / ours, "1e-2 relative",
                           relative < 1e-2, note))  # fmt: skip


def image_flops(clip: Backbone) -> float:
    """Of one image's forward pass: the products of its blocks and its patch embedding."""
    card = clip.card.image
    d, n, tokens, (height, width) = card.width, card.blocks, card.tokens, card.size
    if d is None or n is None or tokens is None:
        raise TypeError(f"{clip.name} is no ViT")
    blocks = n * (2 * 12 * d * d * tokens + 2 * 2 * d * tokens * tokens)
    return blocks + 2 * 3 * height * width * d
