"""A tuning epoch: files opened and seconds, against a loop that decodes every image to get its label."""

import sys
import tempfile
from pathlib import Path

import torch
from bank import photographs
from common import alternate, device
from measurements import Measurement, Report
from tuning_step import BATCH, Step, text_tower

from advpt.attacks import parse
from advpt.backbones.clip import Architecture, backbone_of, build
from advpt.bank.cache import BankCache
from advpt.tuning.loader import BankLoader


def run(report: Report) -> None:
    opened: list[str] = []  # files that this process opens, from Python or by a library that goes through Python
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    n = 32 if report.small else 128
    step = Step(text_tower(), 37, 32)
    torch.manual_seed(0)
    small = backbone_of("small", build(Architecture(512, 224, 1, 64, 32, 77, 49408, 64, 1)), device())
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(Path(folder, "images"), n)
        bank = BankCache(Path(folder, "banks"), small, lambda: small, chunk=32).get(images, parse("pgd1-fkl@8"))
        loader = BankLoader(bank, batch_size=BATCH, seed=1)

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

        ways, read = {"ours": ours, "decoding": decoding}, {}
        for name, work in ways.items():
            opened.clear()
            work()
            read[name] = sum(path.endswith(".jpg") for path in opened)
        seconds = alternate(ways, 1 if report.small else 3, warm=False)
    note = (
        f"ViT-B/16's text tower, K = 37, M = 32, {n} images; image files opened: ours {read['ours']}, decoding "
        f"{read['decoding']}; both with our text encoder, so only the data path differs"
    )
    report.add(Measurement("tuning epoch against decoding images for labels", seconds["ours"], "s", seconds["decoding"],
                           seconds["decoding"] / seconds["ours"], "reads no image",
                           read == {"ours": 0, "decoding": n}, note))  # fmt: skip
