"""Clean and robust accuracy of a prompt, from banks: images are attacked once and never kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advpt import additions, detectors, progress
from advpt.bank.cache import BankCache
from advpt.bank.defended_input import UNDEFENDED
from advpt.bank.store import Bank
from advpt.data.images import ImageSet
from advpt.evaluation import record as records
from advpt.evaluation.defended import Defended, inexact_gradient, over_seeds, plan
from advpt.evaluation.protocols import Threat, threats
from advpt.evaluation.record import Record
from advpt.files import canonical_json
from advpt.prompts.classifier import Classifier
from advpt.settings import EvalSettings

log = logging.getLogger(__name__)

WORST_CASE = "worst-case"


@dataclass(frozen=True)
class Prompts:
    """The prompt that classifies, and the hand-written one that transfer attacks go through (with its text)."""

    learned: Classifier
    zero_shot: Classifier
    handcrafted_text: tuple[str, ...]


def predict(classifier: Classifier, bank: Bank, chunk: int = 4096) -> Tensor:
    """``[n]`` int64 predicted labels of a bank's rows."""
    device = classifier.features.device
    parts = [classifier.logits(e.to(device)).argmax(1).cpu() for e in bank.embeddings.split(chunk)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def evaluate_clean(prompts: Prompts, images: ImageSet, bank_cache: BankCache) -> tuple[Bank, Tensor]:
    """The bank of clean embeddings and ``[n]`` bool, which of its rows are classified correctly."""
    bank = bank_cache.with_visual_prompts(prompts.learned.visual).get(images)
    return bank, predict(prompts.learned, bank) == bank.labels


def evaluate(
    prompts: Prompts,
    images: ImageSet,
    bank_cache: BankCache,
    settings: EvalSettings,
    facts: dict[str, Any],
    rows: Sequence[Defended] = (),
) -> list[Record]:
    """One record per attack, protocol and defense, no defense first (or clean records where no attack is asked for),
    then one worst case per protocol, budget and defense that has several attacks; none is written yet. Images are
    attacked once for all defenses that the attacker does not know.

    ``facts`` is what the caller knows about the run: dataset, trainer, seed, config and so on; it goes into ``result``.
    ``rows``: what stands before those of the settings (test-time tuning, :mod:`advpt.evaluation.tuned`), of the same
    images.
    """
    images = images.first(settings.subset)
    asked = threats(settings.attacks, settings.protocols)
    for threat in asked:
        threat.attack.build().require(images)
    bank_cache = bank_cache.with_visual_prompts(prompts.learned.visual)
    started = time.monotonic()
    device = bank_cache.backbone.device
    rows = [*rows, *plan(settings, images, device)]
    prefetch(rows, None, prompts, bank_cache, settings)
    bases = [(base | facts, correct) for base, correct in (base_of(row, prompts, bank_cache, settings) for row in rows)]
    idle = [idle_tuning(row, None, prompts, bank_cache, settings) for row in rows]
    found: list[Record] = []
    bank_warnings: dict[str, list[str]] = {}  # about the rows of a bank, by its key

    def add(result: dict[str, Any], *banks: Bank, path: str = "", doubt: str = "") -> None:
        nonlocal started
        sentences = [*facts.get("warnings", []), *([doubt] if doubt else [])]
        for bank in banks:
            if bank.key not in bank_warnings:
                bank_warnings[bank.key] = detectors.bank_rows(bank.embeddings, bank.ids)
            sentences += [f"bank {bank.key[:12]}: {line}" for line in bank_warnings[bank.key]]
        if result["robust"] is not None:
            what = f"{result['protocol']} {result['attack']['spec']}"
            sentences += detectors.evaluation(result["clean"], result["robust"], what)
        result["warnings"] = list(dict.fromkeys(sentences))
        result = additions.omit(result, additions.RESULT_FIELDS)
        named = canonical_json(result)
        larger = {key: source for key, source in bank_cache.read_from.items() if key in named}
        extra = ({"files": path} if path else {}) | ({"read_from": larger} if larger else {})
        found.append(Record(result, records.observe(time.monotonic() - started, device, extra)))
        started = time.monotonic()

    measured: list[list[Measured]] = [[] for _ in rows]
    for threat in progress.each(asked, "evaluation", len(asked), "attack"):
        prefetch([row for row in rows if row.applies_to(threat)], threat, prompts, bank_cache, settings)
        for row, (base, clean_correct), done, unmoved in zip(rows, bases, measured, idle):
            if not row.applies_to(threat):
                continue
            done.append(measure(threat, row, prompts, bank_cache, settings))
            made, defense = done[-1].threat, row.facts(done[-1].threat, settings.bpda)
            robust = over_seeds(robust_parts(done[-1], clean_correct), row.inputs)
            add(
                base
                | {
                    "protocol": made.protocol,
                    "attacker_knows": knows(made, row),
                    "attack": made.attack.build().parameters()
                    | {"spec": made.attack.label, "asked": threat.attack.label, "seed": settings.seed},
                    "note": joined(made.note, inexact_gradient(defense)),
                    "defense": defense,
                    "robust": robust | surrogate_part(done[-1], bank_cache),
                },
                *done[-1].banks,
                path=made.attack.path,
                doubt=unmoved and idle_tuning(row, threat, prompts, bank_cache, settings),
            )
    for row, (base, clean_correct), done, unmoved in zip(rows, bases, measured, idle):
        for group in same_budget_groups(done):
            add(base | worst_case(group, row, clean_correct, settings), doubt=unmoved)
    if not found:
        nothing = {"protocol": None, "attacker_knows": None, "attack": None, "note": "", "robust": None}
        for (base, _), unmoved in zip(bases, idle):
            add(base | nothing, doubt=unmoved)
    return found


def joined(*notes: str) -> str:
    """Notes of a record as one."""
    return "; ".join(note for note in notes if note)


def idle_tuning(
    row: Defended, threat: Threat | None, prompts: Prompts, bank_cache: BankCache, settings: EvalSettings
) -> str:
    """A sentence where tuning at test time changed no prediction, else "": of the clean images, and of attacked ones
    where the attacker does not know of it, so that the same images can be classified both ways."""
    if not row.tunes or (threat is not None and threat.own_network):
        return ""
    if threat is None or row.attack_target(threat, settings.bpda) is not None:
        attack, prompt, seed, what = None, None, 0, "clean"
    else:
        attack, prompt, seed = threat.attack, threat.attacked(prompts.learned, prompts.zero_shot), settings.seed
        what = f"clean and under {threat.label}"
    tuned, plain = bank_cache.get_all(row.images, attack, prompt, seed, (*row.inputs, UNDEFENDED))
    if not torch.equal(predict(row.classifier(prompts.learned), tuned), predict(prompts.learned, plain)):
        return ""
    return detectors.idle_tuning(len(row.images), what)


def prefetch(
    rows: list[Defended], threat: Threat | None, prompts: Prompts, bank_cache: BankCache, settings: EvalSettings
) -> None:
    """Build what is missing of all rows that one pass over the images can serve, before each row asks for its own."""
    together: dict[str, list[Defended]] = {}
    for row in rows:
        if threat is None or row.attack_target(threat, settings.bpda) is None:
            together.setdefault(row.images.list_digest, []).append(row)
    for group in together.values():
        if sum(len(row.inputs) for row in group) > 1:
            prompt = threat.attacked(prompts.learned, prompts.zero_shot) if threat is not None else None
            attack = threat.attack if threat is not None else None
            seen = [each for row in group for each in row.inputs]
            bank_cache.get_all(group[0].images, attack, prompt, settings.seed if threat is not None else 0, seen)


def base_of(
    row: Defended, prompts: Prompts, bank_cache: BankCache, settings: EvalSettings
) -> tuple[dict[str, Any], list[Tensor]]:
    """What all records of a row have in common, and for each seed ``[n]`` bool, which clean images are correct."""
    banks = bank_cache.get_all(row.images, None, None, 0, row.inputs)
    correct = [predict(row.classifier(prompts.learned), bank) == bank.labels for bank in banks]
    parts = [records.accuracy(each) | {"bank": bank.key} for each, bank in zip(correct, banks)]
    base = {
        "split": row.images.split,
        "images": {
            "n": len(row.images),
            "digest": row.images.list_digest,
            "subset": len(row.images) if row.part else settings.subset,
            "part": row.part,
        },
        "backbone": {
            "name": bank_cache.backbone.name,
            "image": bank_cache.backbone.image_digest,
            "text": bank_cache.backbone.text_digest,
            "image_file": bank_cache.backbone.image_file,
            "reads": bank_cache.backbone.reads,
        },
        "clean": over_seeds(parts, row.inputs),
        "hand_prompt": list(prompts.handcrafted_text),
        "defenses": row.names,
        "defense": row.facts(None, settings.bpda),
    }
    return base, correct


def knows(threat: Threat, row: Defended) -> str:
    """What the attacker knows, in words."""
    if row.chain is None or threat.own_network:
        return threat.knows
    return f"{threat.knows}, and the defense" if threat.protocol == "adaptive" else f"{threat.knows}; not the defense"


@dataclass(frozen=True)
class Measured:
    """What a threat did to a prompt behind a defense. For each seed of the defense: the bank, and ``correct [n]``
    bool per image; ``perturbed [n]`` bool."""

    threat: Threat
    banks: list[Bank]
    correct: list[Tensor]
    perturbed: Tensor

    @property
    def bank(self) -> Bank:
        return self.banks[0]


def measure(threat: Threat, row: Defended, prompts: Prompts, bank_cache: BankCache, settings: EvalSettings) -> Measured:
    """The attacked images, from the banks or made now, seen through the defense and classified by the learned
    prompt."""
    attack_target, threat = row.attack_target(threat, settings.bpda), row.adapt(threat, settings.eot)
    attacked = threat.attacked(prompts.learned, prompts.zero_shot)
    attacked = row.classifier(attacked) if attack_target is not None else attacked
    banks = bank_cache.get_all(row.images, threat.attack, attacked, settings.seed, row.inputs, attack_target)
    correct = [predict(row.classifier(prompts.learned), bank) == bank.labels for bank in banks]
    return Measured(threat, banks, correct, banks[0].columns["perturbed"])


def robust_parts(found: Measured, clean_correct: list[Tensor]) -> list[dict[str, Any]]:
    """For each seed of the defense: accuracy on all images, share left untouched by the attack, accuracy on those
    really perturbed, and where the attack has stages, how many images each of them broke."""
    names = found.threat.attack.build().parameters().get("stages")
    parts = []
    for bank, correct, clean in zip(found.banks, found.correct, clean_correct):
        part = _accuracies(correct, found.perturbed, clean) | {
            "bank": bank.key,
            "largest_linf": round(float(bank.columns["linf"].max()), 4),
        }
        if names:
            counts = {name: int((bank.columns["stage"] == i).sum()) for i, name in enumerate(names)}
            part["stages"] = counts | {"none": len(correct) - sum(counts.values())}
        parts.append(part)
    return parts


def _accuracies(correct: Tensor, perturbed: Tensor, clean_correct: Tensor) -> dict[str, Any]:
    on_perturbed = records.accuracy(correct[perturbed])
    del on_perturbed["outcome"]
    return records.accuracy(correct) | {
        "untouched": 100 * float((~perturbed).float().mean()),
        "on_perturbed": on_perturbed,
        "lost": 100 * float((clean_correct & ~correct).float().mean()),
    }


def surrogate_part(found: Measured, bank_cache: BankCache) -> dict[str, Any]:
    """The attacker's own network, its accuracy on these images before and after; empty for attacks through CLIP."""
    attack = found.threat.attack.build()
    if attack.source_model != "surrogate":
        return {}
    before = 100 * float((found.bank.columns["clean_correct"] == 1).float().mean())
    after = None if attack.objective.targeted else 100 * float((found.bank.columns["stage"] < 0).float().mean())
    return {"surrogate": bank_cache.surrogate.facts() | {"accuracy": before, "accuracy_attacked": after}}


def same_budget_groups(measured: list[Measured]) -> list[list[Measured]]:
    """Attacks of one protocol and budget, where there are several."""
    groups: dict[tuple[str, str, float], list[Measured]] = {}
    for found in measured:
        spec = found.threat.attack
        groups.setdefault((found.threat.protocol, spec.norm, spec.eps), []).append(found)
    return [group for group in groups.values() if len(group) > 1]


def worst_case(
    group: list[Measured], row: Defended, clean_correct: list[Tensor], settings: EvalSettings
) -> dict[str, Any]:
    """The fields of a record in which an image counts as correct only if it survives every attack of the group."""
    protocol, spec = group[0].threat.protocol, group[0].threat.attack
    most = next((found.threat for found in group if not found.threat.own_network), group[0].threat)  # who knows most
    survived = [torch.stack(each).all(0) for each in zip(*(found.correct for found in group))]
    perturbed = torch.stack([found.perturbed for found in group]).any(0)
    names, defense = [found.threat.attack.label for found in group], row.facts(group[0].threat, settings.bpda)
    name = f"{WORST_CASE}@{spec.eps:g}" + ("" if spec.norm == "linf" else f"/{spec.norm}")
    parts = [
        _accuracies(correct, perturbed, clean)
        | {
            "bank": None,
            "largest_linf": round(max(float(found.bank.columns["linf"].max()) for found in group), 4),
        }
        for correct, clean in zip(survived, clean_correct)
    ]
    return {
        "protocol": protocol,
        "attacker_knows": knows(most, row),
        "attack": {
            "name": WORST_CASE,
            "version": 1,
            "objective": "any",
            "norm": spec.norm,
            "eps": spec.eps,
            "spec": name,
            "asked": name,
            "seed": settings.seed,
            "attacks": names,
        },
        "note": joined(f"per image the worst of {len(names)} attacks", inexact_gradient(defense)),
        "defense": defense,
        "robust": over_seeds(parts, row.inputs),
    }


def summary(records_: list[Record]) -> str:
    """The threat card of a run: every number with who was attacked, how, and what the attacker knew."""
    lines = []
    for r in (x.result for x in records_):
        clean = f"clean {r['clean']['accuracy']:.1f} %"
        if r["robust"] is None:
            defended = f"behind {'+'.join(r['defenses'])}: " if r["defenses"] else ""
            lines.append(f"{defended}{clean} ({r['clean']['n']} images)")
            continue
        robust = r["robust"]
        about = [clean, f"{robust['n']} images", f"untouched {robust['untouched']:.1f} %"]
        if robust["untouched"]:
            about.append(f"on the perturbed {robust['on_perturbed']['accuracy']:.1f} %")
        if r["attack"]["name"] == "files":
            about.append(f"largest change of a pixel {robust['largest_linf']:g}/255")
        if stages := robust.get("stages"):
            about.append("broken by " + ", ".join(f"{name} {n}" for name, n in stages.items()))
        if r["defenses"]:
            about.append(f"behind {'+'.join(r['defenses'])}")
        if "deviation" in robust:
            about.append(f"± {robust['deviation']:.1f} over {len(robust['defense_seeds'])} seeds of the defense")
        if gradient := (r.get("defense") or {}).get("gradient"):
            about.append("attacked with gradients: " + ", ".join(f"{k} {v}" for k, v in gradient.items()))
        if own := robust.get("surrogate"):
            about.append(f"surrogate {own['network']} {own['accuracy']:.1f} % on the clean images")
        lines.append(
            f"{r['protocol']:12} {r['attack']['spec']:28} robust {robust['accuracy']:.1f} %, {', '.join(about)}; "
            f"attacker knows {r['attacker_knows']}" + (f" ({r['note']})" if r["note"] else "")
        )
    lines += [f"WARNING {text}" for text in dict.fromkeys(w for x in records_ for w in x.result.get("warnings", []))]
    return "\n".join(lines)
