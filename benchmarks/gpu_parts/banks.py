"""Banks: PGD-10 on generated photographs in each precision, beside the original loop and the bare passes."""

import tempfile
from pathlib import Path

import torch
from bank import CHUNK, SMALL, STEPS, backbone, image_flops, original_loop, photographs, trainable, ways
from common import alternate, matrix_rate, workers
from measurements import Measurement, Report

from advpt.backbones.clip import Backbone
from advpt.backbones.precision import tf32
from advpt.data.images import ImageSet

SECONDS = {"fp32": 12, "tf32": 6, "amp": 6, "amp+compiled": 50}  # about what ViT-B/16 takes in each precision


def run(report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in (SMALL,) if report.small else ("ViT-B/16", "ViT-L/14"):
            clip = backbone(name)
            images = photographs(Path(folder, "images"), 2 if report.small else 256, clip.card.image.size[0])
            few = images.first(128 if name == "ViT-B/16" else 32)  # for float32, whose passes take long
            original = original_rate(report, clip, few)
            for precision in ("fp32",) if report.small else SECONDS:
                seconds = SECONDS[precision] * (3 if name == "ViT-L/14" else 1)
                chosen = images if precision.startswith("amp") else few
                arguments = (report, clip, precision, chosen, Path(folder, "banks"), original)
                report.attempt(f"{name}, {precision}", seconds, measure, *arguments)


def original_rate(report: Report, clip: Backbone, images: ImageSet) -> float:
    """Images a second of the original loop, float32 as it is released, one chunk after a short warm run."""
    first = images.first(CHUNK)
    with trainable(clip) as model, tf32(False):
        original_loop(model, first, CHUNK, 1)
        seconds = alternate({"original": lambda: original_loop(model, first, CHUNK)}, 1, warm=False)["original"]
    rate = len(first) / seconds
    note = f"trainable weights, {len(first)} images, PGD-{STEPS}"
    report.add(Measurement(f"{clip.name}, original loop, fp32", rate, "images/s", note=note))
    return rate


def measure(report: Report, clip: Backbone, precision: str, images: ImageSet, folder: Path, original: float) -> None:
    """A whole bank against bare passes of this precision, and against the original loop."""
    both = ways(clip, images, folder, precision)
    del both["original"]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tf32(precision == "tf32"):
        seconds = alternate(both, 1, warm=not report.small)
    memory = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    ceiling = product_rate(precision)
    share = len(images) * STEPS * 2 * image_flops(clip) / ceiling / seconds["ours"]
    rate, least = len(images) / seconds["ours"], len(images) / seconds["bare"]
    label = f"{clip.name}, {precision}"
    note = (
        f"{len(images)} images, chunk {min(CHUNK, len(images))}, {workers()} workers; {100 * share:.0f} % of the "
        f"card's rate of {ceiling / 1e12:.1f} TFLOP/s in this precision; peak {memory:.0f} MiB"
    )
    report.add(Measurement(f"{label}: bank against bare passes", rate, "images/s", least, rate / least,
                           "90 % of the bare rate", rate / least >= 0.9, note))  # fmt: skip
    wanted, met = ("3x", rate / original >= 3) if precision == "amp" else ("", None)
    report.add(Measurement(f"{label}: bank against the original loop", rate, "images/s", original, rate / original,
                           wanted, met))  # fmt: skip


def product_rate(precision: str) -> float:
    """FLOP/s of one large product in a precision."""
    dtype = torch.bfloat16 if precision.startswith("amp") else torch.float32
    rows, width = (8192, 2048) if torch.cuda.is_available() else (512, 256)
    with tf32(precision == "tf32"):
        return matrix_rate(rows, width, dtype)
