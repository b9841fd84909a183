"""Evaluation: memory against the number of images, and what a second seed costs on the same test bank."""

import contextlib
import io
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from bank import photographs
from common import ROOT, in_process, peak_memory
from measurements import Measurement, Report

from advpt.attacks import parse
from advpt.backbones.clip import Architecture, backbone_of, build
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet, Preprocessing, Sample

CHUNK, MOST_ABOVE = 64, 200  # BANK.CHUNK's default; MiB
PEAK = "import sys, evaluation; print(evaluation.peak(sys.argv[1], int(sys.argv[2]), bool(sys.argv[3])))"


def peak(folder: str, n: int, bare: bool) -> float:
    """MiB of this process once it has built a bank of ``n`` images, the files of a folder over and over; ``bare``: once
    it has read and embedded them."""
    torch.manual_seed(0)
    clip = backbone_of("small", build(Architecture(64, 224, 1, 64, 32, 77, 49408, 64, 1)))
    files = sorted(Path(folder).glob("*.jpg"))
    samples = tuple(Sample(f"{i:05d}.jpg", str(files[i % len(files)]), i % 2) for i in range(n))
    images = ImageSet("bench", "test", samples, ("one", "two"), Preprocessing((224, 224), "bicubic"))
    if bare:
        for batch in images.batches(range(n), CHUNK):
            with torch.no_grad():
                clip.require_image()(batch.pixels)
    else:
        with tempfile.TemporaryDirectory() as banks:
            BankCache(Path(banks), clip, lambda: clip, chunk=CHUNK).get(images, parse("pgd1-fkl@8"))
    return peak_memory()


def above_a_bare_forward(report: Report) -> None:
    """The whole process's peak with a bank built of ``n`` images, against one that only reads a chunk of them and
    embeds it."""
    with tempfile.TemporaryDirectory() as folder:
        files = len(photographs(Path(folder), 200))
        bare = statistics.median(float(in_process(PEAK, folder, str(files), "bare")) for _ in range(3))
        for n in (200, 600) if report.small else (200, 5000):
            processes = 3 if n == 200 else 1
            most = statistics.median(float(in_process(PEAK, folder, str(n), "")) for _ in range(processes))
            note = (
                f"peak of the whole process, {n} images of 224 pixels, chunks of {CHUNK}, a tower of one block: bank "
                f"{most:.0f} MiB, bare forward passes {bare:.0f} MiB; medians of 3 processes, {processes} with the bank"
            )
            report.add(Measurement(f"peak above a bare forward pass, {n} images", most - bare, "MiB", bare, None,
                                   f"at most {MOST_ABOVE} MiB", most - bare <= MOST_ABOVE, note))  # fmt: skip


def second_seed(report: Report) -> None:
    """``train.py`` on the embedded default: the evaluation's seconds, as its record says them."""
    sys.path.insert(0, str(ROOT))
    import train

    runs = {
        "first run": ["--trainer", "AdvPT", "--seed", "1"],
        "second seed": ["--trainer", "AdvPT", "--seed", "2"],
        "other shot count": ["--trainer", "AdvPT", "--seed", "1", "DATASET.NUM_SHOTS", "4"],
        "other trainer": ["--trainer", "CoOp", "--seed", "1"],
    }
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in runs.items():
            output, text = Path(folder, name), io.StringIO()
            pairs = ["VERBOSE", "False", "BANK.DIR", f"{folder}/banks", "BANK.LIMIT", "64", "OPTIM.MAX_EPOCH", "1"]
            pairs += ["TRAINER.COOP.CLEAN_BANK", "True", "EVAL.ATTACKS", "('pgd40-fkl@8:transfer',)"]
            pairs += ["EVAL.SUBSET", "60" if report.small else "0"]
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
                status = train.main(["--output-dir", str(output), *words, *pairs])
            if status:
                raise RuntimeError(text.getvalue())
            record = next((output / "records").glob("*.json"))
            spent[name] = float(json.loads(record.read_text())["observed"]["seconds"])
    first = spent.pop("first run")
    for name, seconds in spent.items():
        share = seconds / first
        note = f"DemoCLIP, digits, pgd40-fkl@8; {100 * share:.1f} % of its seconds, as the records say them"
        report.add(Measurement(f"{name}, same test bank, against the first run's evaluation", seconds, "s", first,
                               first / seconds, "at most 5 %", share <= 0.05, note))  # fmt: skip


def run(report: Report) -> None:
    above_a_bare_forward(report)
    second_seed(report)
