"""How much work a run is: rough numbers for the estimate that a plan prints, from image counts and network sizes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from advpt.attacks import parse
from advpt.attacks.base import ATTACKS
from advpt.data import catalog, demo_sets
from advpt.defenses import parse as parse_defense
from advpt.evaluation.protocols import split_protocol
from advpt.jobs.plan import BankNeed, Tuning

WORDS = 6  # tokens of a class name, its full stop and the end
ROW = 100  # bytes of a bank's row besides the embedding, its share of headers included
RUN, RECORD, CHECKPOINT = 40_000, 13_000, 18_000  # bytes: a run's log and settings, a record, a checkpoint's frame
START = 6.0  # seconds in which a run imports its libraries
BACKWARD = 1.0  # gradient with respect to the pixels of a frozen network, in forward passes
EFFICIENCY = 0.35  # of a large matrix product's rate that such networks reach


@dataclass(frozen=True)
class Network:
    """GFLOP of one image forward and of one token through the text tower; width of the embedding; weights in bytes."""

    image: float
    token: float
    width: int
    bytes: int


NETWORKS = {
    "vit_b16": Network(35.2, 0.076, 512, 345_000_000),
    "vit_b32": Network(8.8, 0.076, 512, 352_000_000),
    "vit_l14": Network(162.0, 0.17, 768, 1_220_000_000),
    "rn50": Network(12.2, 0.076, 1024, 153_000_000),
    "rn101": Network(19.6, 0.076, 512, 225_000_000),
    "democlip": Network(0.08, 0.0012, 128, 2_500_000),
    "democlip_s": Network(0.014, 0.0002, 64, 500_000),
}
UNKNOWN = Network(35.2, 0.076, 512, 345_000_000)
SURROGATES = {"resnet50": 8.2, "small-cnn": 0.03}  # GFLOP of one image forward
DIFFPURE = 336_000.0  # GFLOP of one image
COSTLY_SUBSET = 1000  # images behind such a defense, as EVAL.COSTLY_SUBSET has it


def network(backbone: str) -> Network:
    return NETWORKS.get(backbone, UNKNOWN)


def counts(dataset: str) -> tuple[int, int, int]:
    """Images in train, val and test, and 10,000 each where nobody knows."""
    for made in (demo_sets.RENDERED, demo_sets.NOISY, demo_sets.ROTATED):
        if dataset in made.facts.aliases:
            return made.facts.counts
    found = catalog.get(dataset).counts
    return found if any(found) else (10_000, 10_000, 10_000)


def classes(dataset: str) -> int:
    return 10 if dataset.endswith("_digits") else catalog.get(dataset).classes or 100


def texts_cost(dataset: str, backbone: str) -> float:
    """GFLOP of the text features of all classes, where each image has its own; their shared prefix is left out."""
    return classes(dataset) * WORDS * network(backbone).token


def attack_cost(text: str, backbone: str, surrogate: str = "resnet50", *, texts: float = 0.0) -> float:
    """GFLOP to attack one image and embed it. ``texts``: those of its text features, where they depend on it."""
    spec, forward = parse(split_protocol(text)[0]), network(backbone).image + texts
    step = 1 + BACKWARD
    if spec.path:
        return forward
    if ATTACKS.get(spec.name).source_model == "surrogate":
        values = spec.arguments()
        late = values.get("late_start") or spec.steps // 4
        passes = late + (spec.steps - late) * (1 + values.get("inner_steps", 8))
        return passes * step * SURROGATES[surrogate] + forward
    if spec.steps:
        return (spec.steps * step + 2) * forward
    return (300 if spec.name == "aa" else 150) * step * forward  # most images break in an early stage


def clean_bank(dataset: str, backbone: str, split: str, images: int, *, extra: str = "") -> BankNeed:
    """``extra`` as for :func:`attacked_bank`."""
    size = 4 * network(backbone).width + ROW
    label = f"{dataset}, {backbone}: clean {split}{_some(images, dataset, split)}{f', {extra}' if extra else ''}"
    return BankNeed(label, images, network(backbone).image, size)


def attacked_bank(
    dataset: str, backbone: str, split: str, images: int, attack: str, *, extra: str = "", surrogate: str = "resnet50"
) -> BankNeed:
    """``extra`` tells banks apart that differ in more than the attack: a profile, a defense."""
    size = 4 * network(backbone).width + ROW
    cost = attack_cost(attack, backbone, surrogate)
    if extra and "diffpure" in extra:
        cost += DIFFPURE
    text = str(parse(split_protocol(attack)[0]))
    return BankNeed(
        f"{dataset}, {backbone}: {text} on {split}{_some(images, dataset, split)}{f', {extra}' if extra else ''}",
        images,
        cost,
        size,
    )


def _some(images: int, dataset: str, split: str) -> str:
    whole = counts(dataset)[{"train": 0, "val": 1, "test": 2}[split]]
    return "" if images == whole else f" ({images} images)"


def tuning(dataset: str, backbone: str, epochs: int, batch: int, images: int, context: int) -> Tuning:
    """Tuning a prompt on embeddings: forward and backward through the text tower, its prefix shared."""
    tokens = 1 + context + classes(dataset) * WORDS
    return Tuning(epochs * max(1, images // batch), tokens * network(backbone).token * 3)


def training_cost(backbone: str, epochs: int, images: int, passes: int) -> float:
    """GFLOP of training the image encoder: ``passes`` steps of an attack and one of training, for each image."""
    return epochs * images * network(backbone).image * (passes * (1 + BACKWARD) + 4)


def run_size(backbone: str, recipe: Mapping[str, Any], context: int, records: int, own_rows: int) -> int:
    """Bytes that a run of a prompt trainer leaves: checkpoints (context and momentum), records, and rows of banks that
    no other run reads. ``context``: its vectors, 0 for a run that tunes nothing."""
    width = network(backbone).width
    epochs, every = recipe.get("OPTIM.MAX_EPOCH", 10), recipe.get("TRAIN.CHECKPOINT_FREQ", 0)
    saved = max(1, epochs // every) if every else 1
    kept = saved * (CHECKPOINT + 2 * 4 * context * min(width, 768)) if context else 0
    return RUN + records * RECORD + kept + own_rows * (4 * width + ROW)


def defense_label(text: str) -> str:
    return str(parse_defense(text))


def speed(device: torch.device | str = "cpu") -> float:
    """GFLOP a second that a network of this kind is likely to reach here, from a short matrix product."""
    n = 4096 if torch.device(device).type == "cuda" else 384
    a = torch.rand(n, n, device=device)
    best = float("inf")
    for _ in range(12):  # the best of them, since others may be at work here
        started = time.perf_counter()
        _ = float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / 1e9 / best * EFFICIENCY
