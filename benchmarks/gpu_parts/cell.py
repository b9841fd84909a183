"""A cell of the paper's table: a data set of Pets' size with ViT-B/16, measured on a part and added up."""

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import bank
import torch
from common import alternate, device, workers
from measurements import Report
from tuning_step import Step, text_tower

from advpt.attacks import parse
from advpt.bank.cache import BankCache
from gpu_parts.tuning import graphed_step, milliseconds

TRAIN, TEST, CLASSES, VECTORS = 2944, 3669, 37, 32  # Oxford Pets, all training images
EPOCHS, BATCH, BANK_STEPS, ATTACK_STEPS = 100, 32, 10, 40
WANTED = 20.0


def run(report: Report) -> None:
    """Ours: a bank in bfloat16, tuning with CUDA graphs, one attack of the test images. The original: all weights
    trainable in the attacks, float32, 77 tokens in every step."""
    name = bank.SMALL if report.small else "ViT-B/16"
    clip = bank.backbone(name)
    n, precision = (2, "fp32") if report.small else (512, "amp")
    steps = {"bank": (TRAIN, 1 if report.small else BANK_STEPS), "PGD-40": (TEST, 2 if report.small else ATTACK_STEPS)}
    ours: dict[str, float] = {}
    original: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = bank.photographs(Path(folder, "images"), n, clip.card.image.size[0])
        few = images.first(32)

        def build(attack: str | None) -> None:
            shutil.rmtree(Path(folder, "banks"), ignore_errors=True)
            cache = BankCache(Path(folder, "banks"), clip, lambda: clip, workers=workers(), precision=precision)
            cache.get(images, parse(attack) if attack else None)

        build("pgd1-fkl@8")  # warm
        for label, (count, iterations) in steps.items():
            ours[label] = count / n * seconds(functools.partial(build, f"pgd{iterations}-fkl@8"))
        ours["clean"] = original["clean"] = TEST / n * seconds(functools.partial(build, None))
        with bank.trainable(clip) as model:
            for label, (count, iterations) in steps.items():
                loop = functools.partial(bank.original_loop, model, few, len(few), iterations)
                original[label] = count / len(few) * seconds(loop)
    batches = EPOCHS * (TRAIN // BATCH)
    step = Step(text_tower(name), CLASSES, VECTORS)
    original["tuning"] = batches * milliseconds(step.coop, report) / 1000
    fast = graphed_step(step) if device().type == "cuda" else step.ours
    ours["tuning"] = batches * milliseconds(fast, report) / 1000
    for label in ours:
        report.compare(f"Pets, {label}", ours[label], original[label])
    whole, reference = sum(ours.values()), sum(original.values())
    note = f"{TRAIN} train, {TEST} test images, {batches} steps, one seed; measured on {n} and {len(few)} images"
    report.compare("Pets, whole cell", whole, reference, wanted=None if report.small else WANTED, note=note)
    note = "ours shares banks between seeds; the original attacks anew"
    report.compare("Pets, three seeds", whole + 2 * ours["tuning"], 3 * reference, note=note)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def seconds(work: Callable[[], object]) -> float:
    """Of one run."""
    return alternate({"work": work}, 1, warm=False)["work"]
