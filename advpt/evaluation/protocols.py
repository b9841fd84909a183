"""The attacker's knowledge, as part of every robust number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advpt.attacks.base import ATTACKS
from advpt.attacks.objectives import OBJECTIVES
from advpt.attacks.spec import AttackSpec, is_files, parse, parse_all
from advpt.errors import ConfigError, unknown_name
from advpt.prompts.classifier import Classifier
from advpt.settings import PROTOCOLS

KNOWS = {
    "transfer": "both encoders and the hand-written prompt, not the learned one (the paper's attacker)",
    "transfer-all": "as transfer, and every image is perturbed",
    "untuned": "both encoders as they were before this run trained one, and the hand-written prompt",
    "static": "the encoders and the learned prompt, not what is done to it at test time (TAPT's attacker)",
    "pseudo": "as static, but for the label: it leaves what the undefended model takes the image for",
    "tuned": "also what tuning at test time makes of the prompt on the clean image",
    "adaptive": "everything, the learned prompt included",
}
KNOW_THE_PROMPT = ("static", "pseudo", "tuned", "adaptive")  # equal where nothing is tuned at test time
KNOWS_NOTHING = "neither CLIP nor any prompt: it attacks a network of its own"
NOT_KNOWN = "what its maker knew: the images were made elsewhere"


@dataclass(frozen=True)
class Threat:
    """One attack under one protocol, as it is really carried out. ``note`` says what was replaced, if anything was."""

    protocol: str
    attack: AttackSpec
    note: str = ""

    def attacked(self, learned: Classifier, zero_shot: Classifier) -> Classifier:
        """The prompt that the attacker attacks through."""
        return learned if self.protocol in KNOW_THE_PROMPT else zero_shot

    @property
    def own_network(self) -> bool:
        """Whether the attack goes through nothing that is evaluated: a network of the attacker's own, or images that
        were made elsewhere."""
        return ATTACKS.get(self.attack.name).source_model != "encoder"

    @property
    def is_adaptive(self) -> bool:
        """Whether the attacker knows, and attacks through, everything that is evaluated."""
        return self.protocol == "adaptive" and not self.own_network

    @property
    def before_tuning(self) -> bool:
        """Whether the attack goes through the image tower as it was before the run trained it."""
        return self.protocol == "untuned" and not self.own_network

    @property
    def predicts_labels(self) -> bool:
        """Whether the attacker leaves the undefended model's predictions, not the labels."""
        return self.protocol == "pseudo" and not self.own_network

    @property
    def knows(self) -> str:
        """What this attacker knows, in words."""
        if self.attack.path:
            return NOT_KNOWN
        return KNOWS_NOTHING if self.own_network else KNOWS[self.protocol]

    @property
    def label(self) -> str:
        return f"{self.protocol} {self.attack}"


def threats(attacks: Sequence[str], protocols: Sequence[str]) -> list[Threat]:
    """Every attack under every protocol, each distinct threat once, the first attack of the first protocol first.

    A text may name several budgets (``pgd40-ce@1,2,4``), and one protocol of its own (``aa@16:transfer-all``), which is
    then its only one. Under ``transfer-all`` an attack that leaves images alone perturbs them all. An attacker who
    knows the prompt replaces an objective that ignores labels by cross-entropy. An attack through a network of its own
    has no prompt to adapt to and comes once; so do images made elsewhere, under ``transfer``.

    Raises:
        ConfigError: a text that is not an attack, or not a protocol after its colon; images made elsewhere under
            another protocol than ``transfer``.
    """
    wanted = [(text, *_of_files(text, *split_protocol(text), protocols)) for text in attacks]
    order = dict.fromkeys([*protocols, *(own for _, _, own in wanted if own)])
    distinct: list[Threat] = []
    for protocol in order:
        for _, text, own in wanted:
            if protocol not in ([own] if own else protocols):
                continue
            for spec in parse_all(text):
                threat = carry_out(protocol, spec)
                same = [t for t in distinct if t.attack == threat.attack]
                if not any(t.protocol == protocol or t.own_network for t in same):
                    distinct.append(threat)
    return distinct


def _of_files(text: str, attack: str, own: str, protocols: Sequence[str]) -> tuple[str, str]:
    """Attack and only protocol of a text; images made elsewhere have ``transfer``."""
    if not is_files(attack):
        return attack, own
    if (own or "transfer") != "transfer" or (not own and "transfer" not in protocols):
        asked = own or ", ".join(protocols)
        raise ConfigError(
            f"attack {text!r} under {asked}: images made elsewhere are as they are, their attacker cannot be told of a "
            f"prompt, a defense or anything else. Evaluate them as {attack}:transfer"
        )
    return attack, "transfer"


def recorded(text: str) -> str:
    """A text as records hold it: with a digest in the place of the path of images made elsewhere."""
    attack, protocol = split_protocol(text)
    return parse(attack).label + (f":{protocol}" if protocol else "") if is_files(text) else text


def split_protocol(text: str) -> tuple[str, str]:
    """``aa@16:transfer-all`` as attack and protocol; "" where it names none, ConfigError for an unknown one."""
    head, at, tail = text.strip().rpartition("@") if is_files(text) else ("", "", text.strip())
    if is_files(text) and not at:
        return tail, ""
    attack, colon, protocol = tail.partition(":")
    if colon and protocol not in PROTOCOLS:
        raise ConfigError(f"attack {text!r}: {unknown_name('protocol', protocol, PROTOCOLS)}")
    return f"{head}{at}{attack}", protocol


def carry_out(protocol: str, spec: AttackSpec) -> Threat:
    """The attack as it is made under a protocol, with a note of what differs from what was asked for."""
    if spec.path:
        return Threat(protocol, spec, "images made elsewhere")
    if Threat(protocol, spec).own_network:
        asked = "" if protocol == "transfer" else f"{protocol} is the same as transfer: "
        return Threat(protocol, spec, f"{asked}it goes through a surrogate network, which has no prompt to adapt to")
    if protocol == "transfer-all":
        every = spec.perturbing_all()
        note = "it perturbs every image anyway: the images of transfer" if every == spec else ""
        return Threat(protocol, every, note)
    if protocol in KNOW_THE_PROMPT and not OBJECTIVES[spec.objective].uses_labels:
        note = f"objective {spec.objective} replaced by ce: this attacker knows the learned prompt"
        return Threat(protocol, spec.with_objective("ce"), note)
    return Threat(protocol, spec)
