"""Equal: CUDA gives what the CPU gives: embeddings, gradients, banks of every kind of attack, training, evaluation."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import common
import numpy as np
import torch
from measurements import Measurement, Report
from torch import Tensor

import train
from advpt.attacks import parse
from advpt.backbones.precision import tf32
from advpt.evaluation import record
from trainers.advpt import CLIPTrainer

EMBEDDING_TOLERANCE = 1e-4  # relative
ACCURACY_TOLERANCE = 0.5  # points
# The text of an attack, how many test images, and about the seconds that a CPU needs.
ATTACKS = (
    ("pgd10-fkl@8", 400, 5), ("pgd10-ce@4", 400, 5), ("mifgsm10-ce@4", 400, 5), ("pgd10-margin@128/l2", 200, 3),
    ("difgsm10-ce@4", 200, 3), ("rap10-ce@8", 100, 10), ("apgd-ce-t@2", 20, 20), ("aa@2", 20, 100),
)  # fmt: skip
SMALL_ATTACKS = (("pgd2-fkl@8", 20, 1), ("pgd2-ce@4", 20, 1))
RUNS = {
    "tuning on a bank, AdvPT": ["AdvPT", "EVAL.ATTACKS", "('pgd10-ce@2:transfer', 'pgd10-ce@2:adaptive')"],
    "tuning on attacked images, AdvIVLP": ["AdvIVLP", "EVAL.ATTACKS", "('pgd10-ce@2:adaptive',)"],
    "test-time tuning, TAPTVLI": ["TAPTVLI", "EVAL.ATTACKS", "('pgd10-ce@2:static',)"],
}
START = {"TAPTVLI": "AdvIVLP"}  # whose run a method begins with


def run(report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        devices = {"reference": "cpu", "tested": common.device().type}
        trainers = {role: zero_shot(device, Path(folder, role)) for role, device in devices.items()}
        compare_encoders(report, trainers)
        for label, words in RUNS.items():
            report.attempt(label, 15, compare_runs, report, label, words, devices, Path(folder))
        for text, images, seconds in SMALL_ATTACKS if report.small else ATTACKS:
            report.attempt(f"bank {text}", seconds, compare_banks, report, text, images, trainers)


def zero_shot(device: str, folder: Path) -> CLIPTrainer:
    """The zero-shot trainer of the embedded default: it has the images, DemoCLIP, its prompt and a folder of banks."""
    words = ["--trainer", "ZeroshotCLIP", "--output-dir", str(folder / "run"), *settings(device, folder)]
    train.register_plugins()
    args = train.parse_args(words)
    return train.build(args, train.setup_cfg(args))


def settings(device: str, folder: Path) -> list[str]:
    banks = ["BANK.DIR", str(folder / "banks"), "DATALOADER.NUM_WORKERS", "0"]
    return ["USE_CUDA", str(device == "cuda"), "VERBOSE", "False", *banks]


def compare_encoders(report: Report, trainers: Mapping[str, CLIPTrainer]) -> None:
    """The same pixels through both: embeddings, and the sign of the gradient that attacks follow."""
    images = trainers["reference"].image_set("test").first(16 if report.small else 256)
    pixels = torch.cat([batch.pixels for batch in images.batches(range(len(images)), 64)])
    pixels = (pixels + 0.05 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    embeddings, gradients = {}, {}
    for role, trainer in trainers.items():
        x = pixels.to(trainer.device).requires_grad_()
        with tf32(False):  # as banks are made
            out = trainer.backbone.require_image()(x)
            logits = trainer.zero_shot.logits(out)
            grad = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, images.labels.to(x.device)), x)[0]
        embeddings[role], gradients[role] = out.detach().cpu(), grad.cpu()
    worst = float(relative(embeddings["tested"], embeddings["reference"]).max())
    flips = float((gradients["tested"].sign() != gradients["reference"].sign()).float().mean())
    note = f"DemoCLIP, {len(images)} images; {100 * flips:.4f} % of the pixels' gradients have another sign"
    report.add(Measurement("embeddings of the same pixels", worst, "relative", wanted=f"at most {EMBEDDING_TOLERANCE}",
                           met=worst <= EMBEDDING_TOLERANCE, note=note))  # fmt: skip


def relative(a: Tensor, b: Tensor) -> Tensor:
    """``[n]``: the distance of two embeddings over the length of the second."""
    return (a - b).norm(dim=1) / b.norm(dim=1)


def compare_banks(report: Report, text: str, count: int, trainers: Mapping[str, CLIPTrainer]) -> None:
    """The same attack on both. An attack of many sign steps may end at other pixels where a gradient is near zero, so
    its embeddings are counted and its accuracy is what must agree."""
    attack, banks, predictions = parse(text), {}, {}
    for role, trainer in trainers.items():
        images = trainer.image_set("test").first(count)
        banks[role] = trainer.bank_cache.get(images, attack, trainer.zero_shot, seed=1)
        embeddings = banks[role].embeddings.to(trainer.device)
        predictions[role] = trainer.zero_shot.logits(embeddings).argmax(1).cpu()
    labels = banks["reference"].labels
    accuracy = {role: 100 * float((predicted == labels).float().mean()) for role, predicted in predictions.items()}
    apart = relative(banks["tested"].embeddings, banks["reference"].embeddings)
    other = int((predictions["tested"] != predictions["reference"]).sum())
    gap = abs(accuracy["tested"] - accuracy["reference"])
    note = (
        f"{len(labels)} images; {int((apart > EMBEDDING_TOLERANCE).sum())} embeddings differ by more than "
        f"{EMBEDDING_TOLERANCE} relative (median {float(apart.median()):.1e}), {other} predictions do; ratio: points"
    )
    report.add(Measurement(f"accuracy under {text}", accuracy["tested"], "%", accuracy["reference"], gap,
                           f"within {ACCURACY_TOLERANCE} points", gap <= ACCURACY_TOLERANCE, note))  # fmt: skip


def compare_runs(report: Report, label: str, words: list[str], devices: dict[str, str], folder: Path) -> None:
    """``train.py`` on both: accuracy clean and attacked, and how many images are answered differently."""
    outcomes: dict[str, list[np.ndarray]] = {}
    epochs, images, limit = ("1", "10", "32") if report.small else ("5", "200", "0")
    for role, device in devices.items():
        trainer, *pairs = words
        output = folder / role / trainer
        flags = ["--trainer", trainer, "--output-dir", str(output)]
        if start := START.get(trainer):
            run = str(folder / role / start)
            flags += ["--eval-only", "--model-dir", run]
            pairs += ["TRAINER.TAPT.CLEAN_RUN", run]
        pairs += ["DATASET.NUM_SHOTS", "8", "OPTIM.MAX_EPOCH", epochs, "EVAL.SUBSET", images, "BANK.LIMIT", limit]
        if status := train.main([*flags, *settings(device, folder / role), *pairs]):
            raise RuntimeError(f"train.py {' '.join(words)} ended with status {status}")
        results = [record.read(path).result for path in sorted(output.glob("records/*.json"))]
        outcomes[role] = [part.outcomes() for part in (results[0].clean, *(each.robust for each in results)) if part]
    accuracies = {role: [100 * float(bits.mean()) for bits in each] for role, each in outcomes.items()}
    gap = max(abs(a - b) for a, b in zip(*accuracies.values(), strict=True))
    differing = [int((a != b).sum()) for a, b in zip(*outcomes.values(), strict=True)]
    shown = {role: ", ".join(f"{value:.1f}" for value in each) for role, each in accuracies.items()}
    note = (
        f"{epochs} epochs of 8 shots, {images} test images, clean and attacked: {shown['tested']} against "
        f"{shown['reference']} %; {differing} images are answered differently"
    )
    report.add(Measurement(label, gap, "points", wanted=f"within {ACCURACY_TOLERANCE} points",
                           met=gap <= ACCURACY_TOLERANCE, note=note))  # fmt: skip
