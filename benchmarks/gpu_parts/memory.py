"""Memory: a bank on a card that is too small for several chunks has the same bits; evaluation needs the same memory
for many images as for few."""

import functools
import io
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import bank
import torch
from common import device, peak_memory, workers
from measurements import Measurement, Report

from advpt.attacks import parse
from advpt.backbones.clip import Backbone
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet

CHUNK = 32


def run(report: Report) -> None:
    clip = bank.backbone(bank.SMALL if report.small else "ViT-B/16")
    few, many = (2, 4) if report.small else (256, 1024)  # whole shards, so that as many chunks run at once
    with tempfile.TemporaryDirectory() as folder:
        images = bank.photographs(Path(folder, "images"), many, clip.card.image.size[0])

        def build(name: str, n: int) -> torch.Tensor:
            cache = BankCache(Path(folder, name), clip, lambda: clip, chunk=CHUNK, workers=workers())
            return cache.get(images.first(n), parse("pgd1-fkl@8")).embeddings

        with report.step("peak"):
            build("warm", few)
            # which of the chunks at work meet at their peaks is chance: the small bank gets as many chances
            repeated = [peak(functools.partial(build, f"few{i}", few)) for i in range(many // few)]
            peaks = {few: max(repeated), many: peak(functools.partial(build, "many", many))}
            growth = peaks[many] - peaks[few]
            shown = ", ".join(f"{value:.0f}" for value in repeated)
            report.add(Measurement("evaluation memory", peaks[many], "MiB", peaks[few], growth,
                                   "constant in the number of images",
                                   None if report.small else growth <= 0.02 * peaks[many],
                                   f"peak of the device with {many} images, and with {few}: {shown}"))  # fmt: skip
        if device().type != "cuda":
            report.skipped.append("out-of-memory back-off: a CPU has no limit of its own")
            report.write()
            return
        with report.step("out of memory"):
            whole = build("whole", 128)
            limit_memory(clip, images.first(CHUNK))
            messages = io.StringIO()
            logging.getLogger("advpt").addHandler(logging.StreamHandler(messages))
            limited = build("limited", 128)
            backed_off = [line for line in messages.getvalue().splitlines() if "memory" in line or "at once" in line]
            same = torch.equal(whole, limited)
            worst = float((whole - limited).norm(dim=1).div(whole.norm(dim=1)).max())
            report.add(Measurement("bank with little memory: largest difference", worst, "relative", wanted="same bits",
                                   met=same, note="; ".join(backed_off) or "it never ran out of memory"))  # fmt: skip


def peak(work: Callable[[], object]) -> float:
    """MiB of the device during ``work``, of the process on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    work()
    return peak_memory()


def limit_memory(clip: Backbone, images: ImageSet) -> None:
    """Leave this process about two and a half chunks, while the library expects that four fit: what it measures as
    free is the card's, not this process's share."""
    pixels = next(images.batches(range(len(images)), CHUNK)).pixels.to(clip.device)
    used = peak(lambda: bank.bare(clip.require_image(), pixels)) * 2**20
    torch.cuda.empty_cache()
    resident = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(clip.device).total_memory
    torch.cuda.set_per_process_memory_fraction((resident + 2.5 * (used - resident)) / total)
