"""Everything that determines a bank's content, and its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advpt import additions
from advpt.data.images import ImageSet
from advpt.errors import shown
from advpt.files import digest

FORMAT = 1


@dataclass(frozen=True)
class AdversarialSet:
    """Images and the attack on them. Names of protocols are not part of it: two protocols that make the same images
    share them.

    Args:
        chunk: images per forward pass.
        attack: the attack's parameters, None for the clean images.
        attacked_image: hash of the attacked image encoder.
        attacked_text: hash of the attacked text features, None for an objective that looks at embeddings only.
        seed: of the attack's draws.
        precision: of the attacked encoder's arithmetic.
        attacked_defense: what an adaptive attacker differentiated.
        attacked_visual: hash of the visual prompts in the attacked encoder.
        labels: whose labels the attack has: None for the true ones, ``predicted`` for the attacked model's own.
    """

    images: ImageSet
    chunk: int
    attack: Mapping[str, Any] | None = None
    attacked_image: str | None = None
    attacked_text: str | None = None
    seed: int | None = None
    precision: str = "fp32"
    attacked_defense: Mapping[str, Any] | None = None
    attacked_visual: str | None = None
    labels: str | None = None

    def fields(self) -> dict[str, Any]:
        """All that the pixels depend on, as JSON values, without what :mod:`advpt.additions` leaves out."""
        fields = {
            "data": {
                "images": self.images.list_digest,
                "n": len(self.images),
                "classnames": list(self.images.classnames),
                "protocol": self.images.protocol,
            },
            "preprocessing": {
                "size": list(self.images.preprocessing.size),
                "interpolation": self.images.preprocessing.interpolation,
                "resize": self.images.preprocessing.resize,
            },
            "attack": dict(self.attack) if self.attack is not None else None,
            "attacked": {
                "image": self.attacked_image,
                "text": self.attacked_text,
                "defense": dict(self.attacked_defense) if self.attacked_defense is not None else None,
                "visual_prompt": self.attacked_visual,
            },
            "seed": self.seed,
            "chunk": self.chunk,
            "precision": self.precision,
            "labels": self.labels,
        }
        return additions.omit(fields, additions.BANK_FIELDS, "adversarial_set.")


@dataclass(frozen=True)
class BankSpec:
    """An adversarial set behind one chain of defenses (the parameters of each, in order), embedded by one encoder."""

    adversarial_set: AdversarialSet
    encoder: str
    defenses: tuple[Mapping[str, Any], ...] = ()
    visual_prompt: str | None = None
    precision: str = "fp32"

    def fields(self) -> dict[str, Any]:
        """All that the embeddings depend on, as JSON values, without what :mod:`advpt.additions` leaves out."""
        fields = {
            "format": FORMAT,
            "adversarial_set": self.adversarial_set.fields(),
            "encoder": {
                "image": self.encoder,
                "visual_prompt": self.visual_prompt,
                "precision": self.precision,
            },
            "defenses": [dict(stage) for stage in self.defenses],
        }
        return additions.omit(fields, additions.BANK_FIELDS)

    @property
    def key(self) -> str:
        """SHA-256 (hex) of all fields."""
        return digest(self.fields())


def differences(bank: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``name: bank has X, the run asks for Y`` for every field that differs, nested fields by dotted name."""
    lines = []
    for name in sorted(bank.keys() | wanted.keys()):
        has, asks = bank.get(name), wanted.get(name)
        if isinstance(has, Mapping) and isinstance(asks, Mapping):
            lines += differences(has, asks, f"{prefix}{name}.")
        elif has != asks:
            lines.append(f"{prefix}{name}: the bank has {shown(has, 80)}, the run asks for {shown(asks, 80)}")
    return lines
