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

WORST_CASE = "worst-case"


@dataclass(frozen=True)
class Prompts:
    """The prompt that classifies, and the hand-written one that transfer attacks go through (with its text)."""

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
    """One record per attack and protocol (or one clean record where no attack is asked for), then one worst case per
    protocol and budget that has several attacks; none is written yet.

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
    found, measured = [], []
    for threat in threats(settings.attacks, settings.protocols):
        measured.append(measure(threat, prompts, images, library, settings.seed))
        result = base | {
            "protocol": threat.protocol,
            "attacker_knows": threat.knows,
            "attack": threat.attack.build().parameters() | {"spec": str(threat.attack), "seed": settings.seed},
            "note": threat.note,
            "robust": robust_part(measured[-1], clean_correct) | surrogate_part(measured[-1], library),
        }
        found.append(Record(result, records.observe(time.monotonic() - started, library.backbone.device)))
        started = time.monotonic()
    for group in rivals(measured):
        result = base | worst_case(group, clean_correct, settings.seed)
        found.append(Record(result, records.observe(time.monotonic() - started, library.backbone.device)))
    if not found:
        clean = base | {"protocol": None, "attacker_knows": None, "attack": None, "note": "", "robust": None}
        found.append(Record(clean, records.observe(time.monotonic() - started, library.backbone.device)))
    return found


@dataclass(frozen=True)
class Measured:
    """What a threat did to a prompt. ``correct [n]``, ``perturbed [n]`` bool per image."""

    threat: Threat
    bank: Bank
    correct: Tensor
    perturbed: Tensor


def measure(threat: Threat, prompts: Prompts, images: ImageSet, library: Library, seed: int) -> Measured:
    """The attacked images, from the bank or made now, classified by the learned prompt."""
    bank = library.get(images, threat.attack, threat.attacked(prompts.learned, prompts.hand), seed)
    correct = predict(prompts.learned, bank) == bank.labels
    return Measured(threat, bank, correct, bank.columns["perturbed"])


def robust_part(found: Measured, clean_correct: Tensor) -> dict[str, Any]:
    """Accuracy on all images, share left untouched by the attack, accuracy on those really perturbed, and where the
    attack has stages, how many images each of them broke."""
    part = _accuracies(found.correct, found.perturbed, clean_correct) | {
        "bank": found.bank.key,
        "largest_linf": round(float(found.bank.columns["linf"].max()), 4),
    }
    if names := found.threat.attack.build().parameters().get("stages"):
        counts = {name: int((found.bank.columns["stage"] == i).sum()) for i, name in enumerate(names)}
        part["stages"] = counts | {"none": len(found.correct) - sum(counts.values())}
    return part


def _accuracies(correct: Tensor, perturbed: Tensor, clean_correct: Tensor) -> dict[str, Any]:
    on_perturbed = records.accuracy(correct[perturbed])
    del on_perturbed["outcome"]
    return records.accuracy(correct) | {
        "untouched": 100 * float((~perturbed).float().mean()),
        "on_perturbed": on_perturbed,
        "lost": 100 * float((clean_correct & ~correct).float().mean()),
    }


def surrogate_part(found: Measured, library: Library) -> dict[str, Any]:
    """The attacker's own network, with its accuracy on these images before and after; empty for attacks through CLIP."""
    attack = found.threat.attack.build()
    if attack.attacks_through != "surrogate":
        return {}
    before = 100 * float((found.bank.columns["clean_correct"] == 1).float().mean())
    after = None if attack.objective.aims else 100 * float((found.bank.columns["stage"] < 0).float().mean())
    return {"surrogate": library.surrogate.facts() | {"accuracy": before, "accuracy_attacked": after}}


def rivals(measured: list[Measured]) -> list[list[Measured]]:
    """Attacks of one protocol and budget, where there are several."""
    groups: dict[tuple[str, str, float], list[Measured]] = {}
    for found in measured:
        spec = found.threat.attack
        groups.setdefault((found.threat.protocol, spec.norm, spec.eps), []).append(found)
    return [group for group in groups.values() if len(group) > 1]


def worst_case(group: list[Measured], clean_correct: Tensor, seed: int) -> dict[str, Any]:
    """The fields of a record in which an image counts as correct only if it survives every attack of the group."""
    protocol, spec = group[0].threat.protocol, group[0].threat.attack
    correct = torch.stack([found.correct for found in group]).all(0)
    perturbed = torch.stack([found.perturbed for found in group]).any(0)
    names = [str(found.threat.attack) for found in group]
    return {
        "protocol": protocol,
        "attacker_knows": KNOWS[protocol],
        "attack": {
            "name": WORST_CASE,
            "version": 1,
            "objective": "any",
            "norm": spec.norm,
            "eps": spec.eps,
            "spec": f"{WORST_CASE}@{spec.eps:g}" + ("" if spec.norm == "linf" else f"/{spec.norm}"),
            "seed": seed,
            "attacks": names,
        },
        "note": f"per image the worst of {len(names)} attacks",
        "robust": _accuracies(correct, perturbed, clean_correct)
        | {
            "bank": None,
            "largest_linf": round(max(float(found.bank.columns["linf"].max()) for found in group), 4),
        },
    }


def card(records_: list[Record]) -> str:
    """The threat card of a run: every number with who was attacked, how, and what the attacker knew."""
    lines = []
    for r in (x.result for x in records_):
        clean = f"clean {r['clean']['accuracy']:.1f} %"
        if r["robust"] is None:
            lines.append(f"{clean} ({r['clean']['n']} images)")
            continue
        robust = r["robust"]
        about = [clean, f"{robust['n']} images", f"untouched {robust['untouched']:.1f} %"]
        if robust["untouched"]:
            about.append(f"on the perturbed {robust['on_perturbed']['accuracy']:.1f} %")
        if stages := robust.get("stages"):
            about.append("broken by " + ", ".join(f"{name} {n}" for name, n in stages.items()))
        if own := robust.get("surrogate"):
            about.append(f"surrogate {own['network']} {own['accuracy']:.1f} % on the clean images")
        lines.append(
            f"{r['protocol']:12} {r['attack']['spec']:28} robust {robust['accuracy']:.1f} %, {', '.join(about)}; "
            f"attacker knows {r['attacker_knows']}" + (f" ({r['note']})" if r["note"] else "")
        )
    return "\n".join(lines)
