"""What attacks do to the images of a row, from banks: each is made once for all rows that it serves."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advpt.backbones.backbone import Backbone
from advpt.backbones.precision import tf32
from advpt.bank.cache import AttackRequest, BankCache
from advpt.bank.defended_input import AdaptiveTarget, DefendedInput
from advpt.bank.store import Bank
from advpt.data.images import ImageSet
from advpt.evaluation.defended import AttackPart, EvaluationRow
from advpt.evaluation.protocols import Threat
from advpt.evaluation.record import PartAccuracy
from advpt.prompts.classifier import Classifier
from advpt.settings import EvalSettings
from advpt.test_time.base import DefendedModel

GRADIENT_IMAGES = 8  # whose gradients are compared with the undefended model's
TIMED_PASSES = 256  # through the image tower, at most, to measure the time of an image


@dataclass(frozen=True)
class Prompts:
    """The prompt that classifies, and the hand-written one that transfer attacks go through (with its text).
    ``model``: what defenses at test time may know of the classifying one. ``untuned``: the backbone before its image
    tower was trained, None where it was not."""

    learned: Classifier
    zero_shot: Classifier
    handcrafted_text: tuple[str, ...]
    model: DefendedModel | None = None
    untuned: Backbone | None = None


def logits_of(classifier: Classifier, bank: Bank, chunk: int) -> Iterator[Tensor]:
    """Logits ``[b, K]`` of a bank's rows, ``chunk`` at a time, on the classifier's device. A bank of logits has them
    already."""
    for part in torch.split(bank.embeddings, chunk):
        part = part.to(classifier.features.device)
        yield part if bank.kind == "logits" else classifier.logits(part)


def predict(classifier: Classifier, bank: Bank, chunk: int = 4096) -> Tensor:
    """``[n]`` int64 predicted labels of a bank's rows."""
    return torch.cat([logits.argmax(1).cpu() for logits in logits_of(classifier, bank, chunk)])


@dataclass(frozen=True)
class Answers:
    """What a classifier makes of images: which are ``correct [n]`` bool, and their ``margins [n]``, the true class's
    logit minus the largest other one (infinite where there is no other class)."""

    correct: Tensor
    margins: Tensor

    @classmethod
    def of(cls, classifier: Classifier, bank: Bank, chunk: int = 4096) -> Answers:
        """Those of a bank's rows."""
        correct, margins = [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0)]
        for logits, labels in zip(logits_of(classifier, bank, chunk), torch.split(bank.labels, chunk)):
            correct.append(logits.argmax(1).cpu() == labels)
            values, true = logits.float().cpu(), labels[:, None]
            others = values.scatter(1, true, -math.inf).amax(1)
            margins.append(values.gather(1, true).squeeze(1) - others)
        return cls(torch.cat(correct), torch.cat(margins))

    def worse(self, other: Answers) -> Answers:
        """For each image the worse of two answers."""
        return Answers(self.correct & other.correct, torch.minimum(self.margins, other.margins))


@dataclass(frozen=True)
class Measured:
    """The outcome of a threat to a prompt behind a defense.

    Args:
        banks, answers: for each draw of the defense the bank, and what the prompt makes of its images.
        perturbed: ``[n]`` bool: which images the attack changed. linf: the largest change of a pixel, in 1/255.
        parts: the attacks of which it is the worst. of_parts: the answers to the images of each, per draw.
    """

    threat: Threat
    banks: list[Bank]
    answers: list[Answers]
    perturbed: Tensor
    linf: float
    parts: tuple[PartAccuracy, ...] = ()
    of_parts: tuple[list[Answers], ...] = ()

    @property
    def correct(self) -> list[Tensor]:
        """``[n]`` bool for each draw of the defense: which images are classified correctly."""
        return [each.correct for each in self.answers]


def largest_change(banks: Sequence[Bank]) -> float:
    """The largest change of a pixel, in 1/255, of images that banks are of."""
    return max((float(bank.columns["linf"].max()) for bank in banks if len(bank)), default=0.0)


class Measurer:
    """Attacks images through banks, and classifies them."""

    def __init__(self, prompts: Prompts, bank_cache: BankCache, settings: EvalSettings) -> None:
        self.prompts, self.bank_cache, self.settings = prompts, bank_cache, settings

    def measure(self, row: EvaluationRow, clean: Sequence[Answers], asked: Threat) -> Measured:
        """Attack the images of a row, or read them from banks, and classify them; ``clean``: what the prompt makes of
        the clean ones, for each draw of the defense."""
        if parts := row.parts(asked, self.settings):
            return self.measure_parts(row, asked, parts)
        target, threat = row.attack_target(asked, self.settings.bpda), row.adapt(asked, self.settings.eot)
        banks = self.bank_cache.get_all(self.request(row.images, threat, target), row.inputs)
        answers = self.answers(banks)
        if threat.predicts_labels:  # where the prediction was wrong, leaving it can make it right
            answers = [attacked.worse(before) for attacked, before in zip(answers, clean)]
        return Measured(threat, banks, answers, banks[0].columns["perturbed"], largest_change(banks))

    def measure_parts(self, row: EvaluationRow, asked: Threat, parts: Sequence[AttackPart]) -> Measured:
        """Measure several attacks, those that ask for it on the images that are correct under some draw of the defense
        until then, and keep the worst for each image."""
        images, banks, facts, sizes = row.images, dict[str, list[Bank]](), list[PartAccuracy](), dict[str, float]()
        of_parts = list[list[Answers]]()
        right, perturbed = [torch.ones(len(images), dtype=torch.bool) for _ in row.inputs], torch.zeros(len(images)) > 0
        margins = [torch.full((len(images),), math.inf) for _ in row.inputs]
        for part in parts:
            rows = (torch.stack(right).any(0) if part.left else perturbed | True).nonzero().flatten()
            if not len(rows):
                continue
            request = self.request(images.select(rows.tolist()), part.threat, part.target)
            banks[part.name] = self.bank_cache.get_all(request, row.inputs)
            answers = self.answers(banks[part.name])
            of_parts.append(answers)
            for each, margin, one in zip(right, margins, answers):
                each[rows] &= one.correct
                margin[rows] = torch.minimum(margin[rows], one.margins)
            perturbed[rows] |= banks[part.name][0].columns["perturbed"]
            if part.variant is not None and part.variant.name not in sizes:
                sizes[part.variant.name] = self.gradient_share(row, part)
            mean = float(torch.stack([each.correct for each in answers]).float().sum(1).mean())
            facts.append(
                PartAccuracy(
                    name=part.name,
                    attack=part.threat.attack.label,
                    n=len(rows),
                    correct=round(mean, 4),
                    accuracy=100 * mean / len(rows),
                    left=part.left,
                    undefended=part.variant is not None and part.variant.undefended,
                    bank=banks[part.name][0].key,
                    gradient=sizes.get(part.variant.name) if part.variant is not None else None,
                )
            )
        linf = max(largest_change(each) for each in banks.values())
        answers = [Answers(*each) for each in zip(right, margins)]
        return Measured(asked, banks[parts[0].name], answers, perturbed, linf, tuple(facts), tuple(of_parts))

    def gradient_share(self, row: EvaluationRow, part: AttackPart) -> float:
        """The size of the gradient that an attack follows at the first clean images, of the margin, over that of the
        undefended model's; 0 where it is not finite."""
        images = row.images.select(range(min(len(row.images), GRADIENT_IMAGES)))
        batch, backbone = next(images.batches(range(len(images)), len(images))), self.bank_cache.loaded()
        plain = self.bank_cache.attacker(self.request(images, part.threat), backbone)
        through = self.bank_cache.attacker(self.request(images, part.threat, part.target), backbone)
        with tf32(self.bank_cache.precision.startswith("tf32")):
            sizes = [attacker.gradient_size(batch, images.ids, self.settings.seed) for attacker in (through, plain)]
        return sizes[0] / sizes[1] if math.isfinite(sizes[0]) and sizes[1] else 0.0

    def prefetch_parts(self, rows: Sequence[EvaluationRow], threat: Threat) -> None:
        """Build the missing banks of attacks on all images that several rows share: each is made once."""
        groups: dict[str, tuple[AttackRequest, list[DefendedInput]]] = {}
        for row in rows:
            for part in row.parts(threat, self.settings):
                if not part.left:
                    request = self.request(row.images, part.threat, part.target)
                    group = groups.setdefault(self.bank_cache.spec(request).key, (request, []))
                    group[1].extend(row.inputs)
        for request, inputs in groups.values():
            if len(inputs) > 1:
                self.bank_cache.get_all(request, inputs)

    def milliseconds(self, row: EvaluationRow) -> float:
        """Milliseconds to classify an image, of a small batch."""
        n = min(len(row.images), max(1, int(TIMED_PASSES / row.cost().forward)))
        images = row.images.select(range(n))
        batch, backbone = next(images.batches(range(n), n)), self.bank_cache.loaded()
        target = self.bank_cache.target(AttackRequest(images), row.inputs[0], backbone)
        pixels = batch.pixels.to(backbone.device)
        with torch.no_grad(), tf32(self.bank_cache.precision.startswith("tf32")):
            target.embed(pixels[:1], images.ids[:1])  # what only the first pass has to do
            started = time.perf_counter()
            target.embed(pixels, images.ids)  # ends on the CPU
        return round(1000 * (time.perf_counter() - started) / n, 3)

    def prefetch(self, rows: Sequence[EvaluationRow], threat: Threat | None) -> None:
        """Build the missing banks of all rows that one pass over the images can serve."""
        by_images: dict[str, list[EvaluationRow]] = {}
        for row in rows:
            if threat is None or row.attack_target(threat, self.settings.bpda) is None:
                by_images.setdefault(row.images.list_digest, []).append(row)
        for group in by_images.values():
            inputs = [each for row in group for each in row.inputs]
            if len(inputs) > 1:
                self.bank_cache.get_all(self.request(group[0].images, threat), inputs)

    def request(self, images: ImageSet, threat: Threat | None, target: AdaptiveTarget | None = None) -> AttackRequest:
        """The bank request of a threat; of clean images without one."""
        if threat is None:
            return AttackRequest(images)
        prompt = threat.attacked(self.prompts.learned, self.prompts.zero_shot)
        source = self.prompts.untuned if threat.before_tuning else None
        return AttackRequest(images, threat.attack, prompt, self.settings.seed, target, threat.predicts_labels, source)

    def answers(self, banks: Sequence[Bank]) -> list[Answers]:
        """For each bank what the learned prompt makes of its images."""
        return [Answers.of(self.prompts.learned, bank) for bank in banks]
