"""Building a bank: ours against the original loop (trainable weights) and against bare forward + input gradient.

All three attack the same photographs with PGD-10 on the embedding KL, ViT-B/16 with random weights. Ours is the whole
path of the library: files read and decoded, attack, embedding, checks, shard written.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import Row, alternate, device, matrix_rate, median, peak_memory
from PIL import Image

from advpt.attacks import parse
from advpt.backbones.clip import OFFICIAL, Backbone, backbone_of, build
from advpt.backbones.precision import in_precision
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet, Preprocessing, Sample

STEPS = 10


def backbone(name: str = "ViT-B/16") -> Backbone:
    torch.manual_seed(0)
    return backbone_of(name, build(OFFICIAL[name]), device())


def photographs(folder: Path, n: int, size: int = 224) -> ImageSet:
    """JPEG files of smooth noise, 300 x 260 pixels."""
    rng, samples = np.random.default_rng(0), []
    for i in range(n):
        path = folder / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 255, (26, 30, 3), dtype=np.uint8))
        small.resize((300, 260), Image.Resampling.BICUBIC).save(path, quality=92)
        samples.append(Sample(path.name, str(path), i % 2))
    return ImageSet("bench", "train", tuple(samples), ("one", "two"), Preprocessing((size, size), "bicubic"))


def original_loop(model, images: ImageSet, batch: int, steps: int = STEPS) -> None:
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
                x = (pixels + (x + x.grad.sign() / 255 - pixels).clamp(-8 / 255, 8 / 255)).clamp(0, 1)
        with torch.no_grad():
            model(x)


def bare(encode, x: torch.Tensor) -> None:
    """The least that PGD needs: forward and gradient of the input, step by step."""
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        torch.autograd.grad(encode(x).sum(), x)


@contextlib.contextmanager
def trainable(clip: Backbone):
    """The tower with gradients for all of its weights, as it comes from a file."""
    image = clip.require_image()
    image.requires_grad_(True)
    try:
        yield image
    finally:
        image.requires_grad_(False)
        for weight in image.parameters():
            weight.grad = None


def run(quick: bool = False) -> list[Row]:
    n, repeats = (2, 1) if quick else (2, 2)
    if torch.cuda.is_available():
        n, repeats = 256, 3
    chunk = min(n, 64)
    clip, folder = backbone(), Path(tempfile.mkdtemp())
    try:
        images = photographs(folder / "images", n)
        pixels = next(images.batches(range(chunk), chunk)).pixels.to(device())
        attack = parse(f"pgd{STEPS}-fkl@8")

        def ours() -> None:
            shutil.rmtree(folder / "banks", ignore_errors=True)
            BankCache(folder / "banks", clip, lambda: clip, chunk=chunk).get(images, attack)

        def original() -> None:
            with trainable(clip) as model:
                original_loop(model, images, chunk)

        def least() -> None:
            for _ in range(n // chunk):
                bare(clip.require_image(), pixels)

        ways = {"ours": ours, "original": original, "bare": least}
        seconds = {name: median(found) for name, found in alternate(ways, repeats, warm=not quick).items()}
        how = f"ViT-B/16, PGD-{STEPS}, {n} photographs, chunk {chunk}, median of {repeats}"
        floor = n * STEPS * 2 * image_flops(clip) / matrix_rate()
        part = 100 * seconds["bare"] / seconds["ours"]
        rows = [
            Row("bank building", "the original loop, trainable weights", seconds["ours"], seconds["original"],
                seconds["original"] / seconds["ours"], "1.3x", seconds["original"] / seconds["ours"] >= 1.3,
                f"{how}; {n / seconds['ours']:.2f} images/s", floor=floor, memory=peak_memory()),
            Row("bank building", "bare forward + input gradient", seconds["ours"], seconds["bare"],
                part / 100, "90 % of its rate", part >= 90, f"{how}; the ratio is bare / ours, at most 1"),
        ]  # fmt: skip
        return rows + half_precision_row(clip, pixels, 1 if quick else 3)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def half_precision_row(clip: Backbone, pixels: torch.Tensor, repeats: int) -> list[Row]:
    """The same passes in bfloat16 (BANK.PREC amp), and how far its embeddings are from float32's."""
    plain = clip.require_image()
    half = in_precision(plain, "amp")
    with torch.no_grad():
        a, b = plain(pixels), half(pixels)
    seconds = alternate({"plain": lambda: step(plain, pixels), "half": lambda: step(half, pixels)}, repeats)
    ours, reference = median(seconds["half"]), median(seconds["plain"])
    relative = float(((a - b).norm(dim=1) / a.norm(dim=1)).max())
    how = f"forward + input gradient, {len(pixels)} images; embeddings differ by at most {relative:.1e} relative"
    return [Row("BANK.PREC amp", "float32", ours, reference, reference / ours, "1e-2 relative", relative < 1e-2, how)]


def step(encode, pixels: torch.Tensor) -> None:
    x = pixels.clone().requires_grad_()
    torch.autograd.grad(encode(x).sum(), x)


def image_flops(clip: Backbone) -> float:
    """Of one image's forward pass: the products of its blocks and its patch embedding."""
    card = clip.card.image
    if card.tokens is None:
        raise TypeError(f"{clip.name} is no ViT")
    d, tokens, (height, width) = card.width, card.tokens, card.size
    blocks = card.blocks * (2 * 12 * d * d * tokens + 2 * 2 * d * tokens * tokens)
    return blocks + 2 * 3 * height * width * d
