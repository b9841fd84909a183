"""Banks: PGD-10 on generated photographs in each precision, beside the original loop and the bare passes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import torch
from bank import STEPS, bare, image_flops, original_loop, photographs, trainable
from common import alternate, matrix_rate, synchronize
from measurements import Measurement, Report

from advpt.attacks import parse
from advpt.backbones.clip import Backbone
from advpt.backbones.precision import in_precision, tf32
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet
from gpu_parts import SMALL, backbone, workers

PRECISIONS = ("fp32", "tf32", "amp", "amp+compiled")
CHUNK = 64
SECONDS = {"fp32": 12, "tf32": 6, "amp": 6, "amp+compiled": 50}  # about what ViT-B/16 takes


def run(report: Report) -> None:
    names = (SMALL,) if report.small else ("ViT-B/16", "ViT-L/14")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            clip = backbone(name, report)
            images = photographs(Path(folder, "images"), 2 if report.small else 256, clip.card.image.size[0])
            few = images.first(128 if name == "ViT-B/16" else 32)  # for float32, whose passes take long
            original = original_seconds(report, clip, few)
            for precision in PRECISIONS[:1] if report.small else PRECISIONS:
                with report.step(f"{name} {precision}"):
                    if report.has_time(f"{name} {precision}", SECONDS[precision] * (3 if name == "ViT-L/14" else 1)):
                        chosen = images if precision.startswith("amp") else few
                        measure(report, clip, precision, chosen, Path(folder, "banks"), original)


def original_seconds(report: Report, clip: Backbone, images: ImageSet) -> float:
    """Seconds an image of the original loop, float32 as it is released, one chunk after a short warm run."""
    first = images.first(CHUNK)
    with trainable(clip) as model, tf32(False):
        original_loop(model, first, CHUNK, 1)
        seconds = alternate({"original": lambda: original_loop(model, first, CHUNK)}, 1, warm=False)["original"][0]
    report.add(Measurement(f"{clip.name}, original loop, fp32", len(first) / seconds, "images/s",
                           note=f"trainable weights, {len(first)} images, PGD-{STEPS}"))  # fmt: skip
    return seconds / len(first)


def measure(report: Report, clip: Backbone, precision: str, images: ImageSet, folder: Path, original: float) -> None:
    """A whole bank (files read and decoded, attack, embedding, shard written) against bare passes of this precision."""
    attack, chunk = parse(f"pgd{STEPS}-fkl@8"), min(CHUNK, len(images))
    pixels = next(images.batches(range(chunk), chunk)).pixels.to(clip.device)
    encode = in_precision(clip.require_image(), precision)

    def ours() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        cache = BankCache(folder, clip, lambda: clip, chunk=CHUNK, workers=workers(report), precision=precision)
        cache.get(images, attack)

    def passes() -> None:
        for _ in range(len(images) // chunk):
            bare(encode, pixels)

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tf32(precision == "tf32"):
        seconds = alternate({"ours": ours, "bare": passes}, 1, warm=not report.small)
        synchronize()
    (best,), (least,) = seconds["ours"], seconds["bare"]
    rate = rate_of(precision)
    share = len(images) * STEPS * 2 * image_flops(clip) / rate / best
    memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    label = f"{clip.name}, {precision}"
    note = (
        f"{len(images)} images, chunk {chunk}, {workers(report)} workers; "
        f"{100 * share:.0f} % of the card's rate of {rate / 1e12:.1f} TFLOP/s in this precision; peak {memory:.0f} MiB"
    )
    report.add(Measurement(f"{label}: bank against bare passes", len(images) / best, "images/s", len(images) / least,
                           least / best, "90 % of the bare rate", least / best >= 0.9, note))  # fmt: skip
    factor = original * len(images) / best
    wanted = "3x" if precision == "amp" else ""
    report.add(Measurement(f"{label}: bank against the original loop", len(images) / best, "images/s", 1 / original,
                           factor, wanted, factor >= 3 if wanted else None))  # fmt: skip


def rate_of(precision: str) -> float:
    """FLOP/s of one large product in a precision."""
    dtype = torch.bfloat16 if precision.startswith("amp") else torch.float32
    size = 8192 if torch.cuda.is_available() else 512
    with contextlib.ExitStack() as stack:
        stack.enter_context(tf32(precision == "tf32"))
        return matrix_rate(size, 2048 if torch.cuda.is_available() else 256, dtype)
