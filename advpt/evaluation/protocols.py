"""Who knows what: the attacker's knowledge as part of every robust number."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from advpt.attacks.objectives import OBJECTIVES
from advpt.attacks.spec import AttackSpec, parse
from advpt.prompts.classifier import Classifier

KNOWS = {
    "transfer": "both encoders and the hand-written prompt, not the learned one (the paper's attacker)",
    "transfer-all": "as transfer, and every image is perturbed",
    "adaptive": "everything, the learned prompt included",
}


@dataclass(frozen=True)
class Threat:
    """One attack under one protocol, as it is really carried out. ``note`` says what was replaced, if anything was."""

    protocol: str
    attack: AttackSpec
    note: str = ""

    def attacked(self, learned: Classifier, hand: Classifier) -> Classifier:
        """The prompt that the attacker attacks through."""
        return learned if self.protocol == "adaptive" else hand

    @property
    def label(self) -> str:
        return f"{self.protocol} {self.attack}"


def threats(attacks: Sequence[str], protocols: Sequence[str]) -> list[Threat]:
    """Every attack under every protocol, each distinct threat once, the first attack of the first protocol first.

    Under ``adaptive`` an objective that ignores labels is replaced by cross-entropy through the learned prompt: an attacker
    who knows the prompt would not use less.
    """
    found: list[Threat] = []
    for protocol in protocols:
        for text in attacks:
            spec, note = parse(text), ""
            if protocol == "adaptive" and not OBJECTIVES[spec.objective].uses_labels:
                note = f"objective {spec.objective} replaced by ce: this attacker knows the learned prompt"
                spec = spec.with_objective("ce")
            if not any(t.protocol == protocol and t.attack == spec for t in found):
                found.append(Threat(protocol, dataclasses.replace(spec), note))
    return found
