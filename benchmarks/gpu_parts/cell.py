"""A cell of the paper's table: a data set of Pets' size with ViT-B/16, measured on a part and added up."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

import bank
import torch
from common import alternate, device
from measurements import Measurement, Report
from tuning_step import Step

from advpt.attacks import parse
from advpt.bank.cache import BankCache
from gpu_parts import backbone, text_model, workers
from gpu_parts.tuning import coop_step, graphed_step, milliseconds

TRAIN, TEST, CLASSES, VECTORS = 2944, 3669, 37, 32  # Oxford Pets, all training images
EPOCHS, BATCH, BANK_STEPS, ATTACK_STEPS = 100, 32, 10, 40
WANTED = 20.0


def run(report: Report) -> None:
    """Ours: a bank in bfloat16, tuning with CUDA graphs, one attack of the test images. The original: all weights
    trainable in the attacks, float32, 77 tokens in every step."""
    clip = backbone("ViT-B/16", report)
    n, precision = (2, "fp32") if report.small else (512, "amp")
    steps = {"bank": (TRAIN, 1 if report.small else BANK_STEPS), "PGD-40": (TEST, 2 if report.small else ATTACK_STEPS)}
    ours: dict[str, float] = {}
    original: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = bank.photographs(Path(folder, "images"), n, clip.card.image.size[0])
        few = images.first(32)

        def build(attack: str | None) -> None:
            shutil.rmtree(Path(folder, "banks"), ignore_errors=True)
            cache = BankCache(Path(folder, "banks"), clip, lambda: clip, workers=workers(report), precision=precision)
            cache.get(images, parse(attack) if attack else None)

        build("pgd1-fkl@8")  # warm
        for label, (count, iterations) in steps.items():
            work = functools.partial(build, f"pgd{iterations}-fkl@8")
            ours[label] = count / n * min(alternate({"ours": work}, 1, warm=False)["ours"])
        ours["clean"] = TEST / n * min(alternate({"ours": lambda: build(None)}, 1, warm=False)["ours"])
        with bank.trainable(clip) as model:
            for label, (count, iterations) in steps.items():
                loop = functools.partial(bank.original_loop, model, few, len(few), iterations)
                original[label] = count / len(few) * min(alternate({"x": loop}, 1, warm=False)["x"])
        original["clean"] = ours["clean"]
    batches = EPOCHS * (TRAIN // BATCH)
    step = Step(text_model("ViT-B/16", report), CLASSES, VECTORS)
    original["tuning"] = batches * milliseconds(functools.partial(coop_step, step), report) / 1000
    fast = graphed_step(step) if device().type == "cuda" else step.ours
    ours["tuning"] = batches * milliseconds(fast, report) / 1000
    for label in original:
        report.add(Measurement(f"Pets, {label}", ours[label], "s", original[label], original[label] / ours[label]))
    one = {"ours": sum(ours.values()), "original": sum(original.values())}
    factor = one["original"] / one["ours"]
    note = f"{TRAIN} train, {TEST} test images, {batches} steps, one seed; measured on {n} and {len(few)} images"
    report.add(Measurement("Pets, whole cell", one["ours"], "s", one["original"], factor, f"{WANTED:g}x",
                           None if report.small else factor >= WANTED, note))  # fmt: skip
    three = one["ours"] + 2 * ours["tuning"]
    report.add(Measurement("Pets, three seeds", three, "s", 3 * one["original"], 3 * one["original"] / three,
                           note="ours shares banks between seeds; the original attacks anew"))  # fmt: skip
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
