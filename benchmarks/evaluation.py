"""Evaluation: memory against the number of images, and what a second seed costs on the same test bank."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

from bank import photographs
from common import ROOT, Row, in_process, median

ABOVE = """
import json, sys, tempfile
from pathlib import Path
import torch
from advpt.attacks import parse
from advpt.backbones.clip import Architecture, backbone_of, build
from advpt.bank.cache import BankCache
from advpt.data.images import ImageSet, Preprocessing, Sample
from common import peak_memory
folder, n, chunk, bare = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "bare"
torch.manual_seed(0)
clip = backbone_of("small", build(Architecture(64, 224, 1, 64, 32, 77, 49408, 64, 1)))
files = sorted(folder.glob("*.jpg"))
samples = tuple(Sample(f"{i:05d}.jpg", str(files[i % len(files)]), i % 2) for i in range(n))
images = ImageSet("bench", "test", samples, ("one", "two"), Preprocessing((224, 224), "bicubic"))
with tempfile.TemporaryDirectory() as banks:
    if bare:
        for batch in images.batches(range(n), chunk):
            with torch.no_grad():
                clip.require_image()(batch.pixels)
    else:
        BankCache(Path(banks), clip, lambda: clip, chunk=chunk).get(images, parse("pgd1-fkl@8"))
print(json.dumps(peak_memory()))
"""
CHUNK, MOST_ABOVE = 64, 200  # BANK.CHUNK's default; MiB


def above_a_bare_forward(quick: bool) -> list[Row]:
    """The whole process's peak with a bank built of ``n`` images, against one that only reads a chunk of them and
    embeds it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = len(photographs(Path(folder), 200))
        bare = median([float(in_process(ABOVE, folder, str(files), str(CHUNK), "bare")) for _ in range(3)])
        for n in (200, 600) if quick else (200, 5000):
            processes = 3 if n == 200 else 1
            peaks = [float(in_process(ABOVE, folder, str(n), str(CHUNK), "bank")) for _ in range(processes)]
            peak = median(peaks)
            how = (
                f"peak of the whole process, {n} images of 224 pixels, chunks of {CHUNK}, a tower of one block: bank "
                f"{peak:.0f} MiB, bare forward passes {bare:.0f} MiB; medians of 3 processes, {processes} with the "
                "bank; MiB, not seconds"
            )
            rows.append(
                Row(f"peak above a bare forward, {n} images", "a bare forward pass", peak - bare, bare, None,
                    f"at most {MOST_ABOVE} MiB", peak - bare <= MOST_ABOVE, how)
            )  # fmt: skip
    return rows


def second_seed(quick: bool) -> list[Row]:
    """``train.py`` on the embedded default: the evaluation's seconds, as its log says them."""
    sys.path.insert(0, str(ROOT))
    import train

    spent: dict[str, float] = {}
    attacks = "('pgd40-fkl@8:transfer',)"
    with tempfile.TemporaryDirectory() as folder:
        for name, words in (
            ("first", ["--trainer", "AdvPT", "--seed", "1"]),
            ("second", ["--trainer", "AdvPT", "--seed", "2"]),
            ("shots", ["--trainer", "AdvPT", "--seed", "1", "DATASET.NUM_SHOTS", "4"]),
            ("coop", ["--trainer", "CoOp", "--seed", "1"]),
        ):
            flags, pairs = words[:4], words[4:]
            out = io.StringIO()
            start = time.perf_counter()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                status = train.main([*flags, "--output-dir", f"{folder}/{name}", "VERBOSE", "False", *pairs,
                                     "BANK.DIR", f"{folder}/banks", "BANK.LIMIT", "64", "OPTIM.MAX_EPOCH", "1",
                                     "TRAINER.COOP.CLEAN_BANK", "True", "EVAL.ATTACKS", attacks,
                                     "EVAL.SUBSET", "60" if quick else "0"])  # fmt: skip
            if status:
                raise RuntimeError(out.getvalue())
            found = list(Path(folder, name, "records").glob("*.json"))
            observed = json.loads(found[0].read_text())["observed"]
            spent[name] = float(observed.get("seconds", time.perf_counter() - start))
    rows = []
    for name, what in (("second", "second seed"), ("shots", "other shot count"), ("coop", "other trainer")):
        share = spent[name] / spent["first"]
        rows.append(
            Row(f"{what}, same test bank", "the first run's evaluation", spent[name], spent["first"],
                spent["first"] / spent[name], "at most 5 %", share <= 0.05,
                f"DemoCLIP, digits, pgd40-fkl@8; {100 * share:.1f} % of its seconds, as the records say them")
        )  # fmt: skip
    return rows


def run(quick: bool = False) -> list[Row]:
    return [*above_a_bare_forward(quick), *second_seed(quick)]
