"""A tuning epoch: files opened and seconds, against a loop that decodes every image to get its label."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from bank import photographs
from common import Row, alternate, device, median
from tuning_step import BATCH, Step, text_tower

from advpt.attacks import parse
from advpt.backbones.clip import Architecture, backbone_of, build
from advpt.bank.cache import BankCache
from advpt.tuning.loader import BankLoader

OPENED: list[str] = []


def watch() -> None:
    """Count files that this process opens, from Python or by a library that goes through Python."""
    sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)


def run(quick: bool = False) -> list[Row]:
    watch()
    n = 32 if quick else 128
    model = text_tower()
    step = Step(model, 37, 32)
    torch.manual_seed(0)
    small = backbone_of("small", build(Architecture(512, 224, 1, 64, 32, 77, 49408, 64, 1)), device())
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(Path(folder, "images"), n)
        bank_cache = BankCache(Path(folder, "banks"), small, lambda: small, chunk=32)
        bank = bank_cache.get(images, parse("pgd1-fkl@8"))
        loader = BankLoader(bank, batch_size=BATCH, seed=1)
        opened = {}

        def ours() -> None:
            for batch in loader:
                step.features, step.labels = batch["img"].to(device()), batch["label"].to(device())
                step.ours()

        def decoding() -> None:
            """The same step; labels (and pixels that nobody looks at) come from the image files, as in the released
            code, whose loader is the ordinary one."""
            for first, batch in enumerate(images.batches(range(n), BATCH)):
                step.features = bank.embeddings[first * BATCH : (first + 1) * BATCH].to(device())
                step.labels = batch.labels.to(device())
                step.ours()

        for name, work in (("ours", ours), ("decoding", decoding)):
            OPENED.clear()
            work()
            opened[name] = sum(path.endswith(".jpg") for path in OPENED)
        seconds = alternate({"ours": ours, "decoding": decoding}, 1 if quick else 3, warm=False)
    ours_s, other = median(seconds["ours"]), median(seconds["decoding"])
    how = (
        f"ViT-B/16's text tower, K = 37, M = 32, {n} images; image files opened: ours {opened['ours']}, decoding "
        f"{opened['decoding']}; both with our text encoder, so only the data path differs"
    )
    return [Row("tuning epoch", "decoding images for labels", ours_s, other, other / ours_s, "reads no image",
                opened["ours"] == 0 and opened["decoding"] == n, how)]  # fmt: skip
