"""Clean and robust accuracy of a prompt, from banks: images are attacked once and never kept."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advpt.bank.library import Library
from advpt.bank.store import Bank
from advpt.data.images import ImageSet
from advpt.evaluation import record as records
from advpt.evaluation.protocols import KNOWS, Threat, threats
from advpt.evaluation.record import Record
from advpt.prompts.classifier import Classifier
from advpt.settings import EvalSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompts:
    """The prompt that classifies, and the hand-written one that transfer attacks go through (its text for the record)."""

    learned: Classifier
    hand: Classifier
    hand_text: tuple[str, ...]


def predict(classifier: Classifier, bank: Bank, chunk: int = 4096) -> Tensor:
    """``[n]`` int64 predicted labels of a bank's rows."""
    device = classifier.features.device
    parts = [classifier.logits(e.to(device)).argmax(1).cpu() for e in bank.embeddings.split(chunk)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def evaluate_clean(prompts: Prompts, images: ImageSet, library: Library) -> tuple[Bank, Tensor]:
    """The bank of clean embeddings and ``[n]`` bool, which of its rows are classified correctly."""
    bank = library.get(images)
    return bank, predict(prompts.learned, bank) == bank.labels


def evaluate(
    prompts: Prompts,
    images: ImageSet,
    library: Library,
    settings: EvalSettings,
    facts: dict[str, Any],
) -> list[Record]:
    """One record per attack and protocol (or one clean record where no attack is asked for), not yet written.

    ``facts`` is what the caller knows about the run: dataset, trainer, seed, config and so on; it goes into ``result``.
    """
    images = images.first(settings.subset)
    started = time.monotonic()
    bank, clean_correct = evaluate_clean(prompts, images, library)
    base = {
        "split": images.split,
        "images": {"n": len(images), "digest": images.list_digest, "subset": settings.subset},
        "backbone": {
            "name": library.backbone.name,
            "image": library.backbone.image_digest,
            "text": library.backbone.text_digest,
        },
        "clean": records.accuracy(clean_correct) | {"bank": bank.key},
        "hand_prompt": list(prompts.hand_text),
        "defenses": [],
        **facts,
    }
    found = []
    for threat in threats(settings.attacks, settings.protocols):
        robust = robust_part(threat, prompts, images, library, settings.seed, clean_correct)
        result = base | {
            "protocol": threat.protocol,
            "attacker_knows": KNOWS[threat.protocol],
            "attack": threat.attack.build().parameters() | {"spec": str(threat.attack), "seed": settings.seed},
            "note": threat.note,
            "robust": robust,
        }
        found.append(Record(result, records.observe(time.monotonic() - started, library.backbone.device)))
        started = time.monotonic()
    if not found:
        clean = base | {"protocol": None, "attacker_knows": None, "attack": None, "note": "", "robust": None}
        found.append(Record(clean, records.observe(time.monotonic() - started, library.backbone.device)))
    return found


def robust_part(
    threat: Threat, prompts: Prompts, images: ImageSet, library: Library, seed: int, clean_correct: Tensor
) -> dict[str, Any]:
    """Accuracy on all images, share left untouched by the attack, and accuracy on those really perturbed."""
    bank = library.get(images, threat.attack, threat.attacked(prompts.learned, prompts.hand), seed)
    correct = predict(prompts.learned, bank) == bank.labels
    perturbed = bank.columns["perturbed"]
    on_perturbed = records.accuracy(correct[perturbed])
    del on_perturbed["outcome"]
    return records.accuracy(correct) | {
        "bank": bank.key,
        "untouched": 100 * float((~perturbed).float().mean()),
        "on_perturbed": on_perturbed,
        "largest_linf": round(float(bank.columns["linf"].max()), 4),
        "lost": 100 * float((clean_correct & ~correct).float().mean()),
    }


def card(records_: list[Record]) -> str:
    """The threat card of a run: every number with who was attacked, how, and what the attacker knew."""
    lines = []
    for r in (x.result for x in records_):
        clean = f"clean {r['clean']['accuracy']:.1f} %"
        if r["robust"] is None:
            lines.append(f"{clean} ({r['clean']['n']} images)")
            continue
        lines.append(
            f"{r['protocol']:12} {r['attack']['spec']:28} robust {r['robust']['accuracy']:.1f} %, {clean}, "
            f"{r['robust']['n']} images, untouched {r['robust']['untouched']:.1f} %; attacker knows {r['attacker_knows']}"
            + (f" ({r['note']})" if r["note"] else "")
        )
    return "\n".join(lines)
