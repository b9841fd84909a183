"""The numbers that papers print of fine-tuned image towers: ``paper/fine_tuning_tables.csv``, and what each source says
of its evaluation, ``paper/fine_tuning_sources.csv``.

The same method differs by many points between papers, with the attack, the images, the texts and the training set. A
number is given where all of these agree; else the nearest one with what differs. Source and attack stand beside both.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable
from dataclasses import dataclass

from advpt.attacks.spec import AttackSpec, parse
from advpt.results.published import FOLDER

FILE, SOURCES = "fine_tuning_tables.csv", "fine_tuning_sources.csv"
CLEAN = ""  # the attack of clean accuracy
MISPRINT = "probably a misprint"  # in a source's words, behind the number that is one
SMALL_IMAGES = ("CIFAR10", "CIFAR100", "STL10")  # which some papers attack at their own resolution
ATTACKS = {"aa": "AutoAttack", "apgd-ce-t": "APGD-CE + APGD-T 100 it"}
# From what matters most: the field, and what it is called in sentences.
FIELDS = {
    "backbone": "backbone",
    "base": "base weights",
    "train_set": "training set",
    "protocol": "protocol",
    "images": "test images",
    "prompt": "prompt",
    "attack_at": "resolution of attacks",
    "eps": "budget",
    "attack": "attack",
}


@dataclass(frozen=True)
class TowerPlace:
    """What an accuracy is of.

    Args:
        method: ``CLIP`` for a tower that was not tuned, else as the papers write it: ``TeCoA``, ``FARE``, ``PMG-AFT``,
            ``TGA-ZSR``; the models of FARE's authors have their training budget behind it (``FARE4``).
        backbone: ``ViT-B/32``. base: the weights that training began with. dataset: its registered name, or
            ``mean16``.
        train_set: with the training budget, ``TinyImageNet eps1``; ``none``.
        attack: as papers call it (:func:`paper_attack`), "" without one. eps: its budget in 1/255, as text.
        protocol: of DATASET.PROTOCOL, ``coop`` or ``tecoa``, or ``clip-benchmark``; prompt: whose texts, ``coop``,
            ``tecoa``, ``ttc`` or ``fare``; images: so many of each data set, or ``all``; attack_at: ``model``, or
            ``native`` where small images are attacked before they are enlarged. "" in a source: not known.
    """

    method: str
    backbone: str
    train_set: str
    dataset: str
    eps: str
    attack: str
    protocol: str = "tecoa"
    prompt: str = "tecoa"
    images: str = "all"
    attack_at: str = "model"
    base: str = "CLIP"


@dataclass(frozen=True)
class TowerNumber:
    """A printed accuracy in percent, and where it stands."""

    place: TowerPlace
    accuracy: float
    source: str

    @property
    def text(self) -> str:
        """``42.1 (TGA-ZSR NeurIPS'24 paper text, PGD-100 at 1/255)``."""
        attack = f"{self.place.attack} at {self.place.eps}/255" if self.place.attack else "clean"
        return f"{self.accuracy:.1f} ({self.source}, {attack})"


@dataclass(frozen=True)
class Difference:
    """Why no printed number stands beside ours: the nearest one of the method and the data set, None where there is
    none, and what differs in it."""

    nearest: TowerNumber | None
    text: str


def paper_attack(spec: AttackSpec) -> str:
    """An attack as papers call it: ``PGD-10`` for ten steps of 1/255 on the cross-entropy from a random start, and
    AutoAttack and APGD as they are; another one by its own name, which no paper has."""
    plain = (spec.name, spec.objective, spec.norm, spec.get("start"), spec.get("restarts"), spec.get("momentum"))
    if plain == ("pgd", "ce", "linf", "uniform", 1, 0.0) and spec.get("step") == 1.0:
        return f"PGD-{spec.steps}"
    return ATTACKS[spec.name] if spec.name in ATTACKS and spec == parse(f"{spec.name}@{spec.eps:g}") else str(spec)


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def tower_numbers() -> tuple[TowerNumber, ...]:
    """All printed numbers, clean ones once for each source; without those that are probably misprints."""
    sources, made = {row["source"]: row for row in _rows(SOURCES)}, dict[TowerNumber, None]()
    for row in _rows(FILE):
        about = sources[row["source"]]
        facts = {name: about[name] for name in ("protocol", "prompt", "images", "attack_at")}
        facts |= {name: row[name] for name in ("method", "base", "backbone", "train_set", "dataset")}
        clean = row["clean"]
        if MISPRINT in row["source"] and f"{row['dataset']} clean printed {clean}" in row["source"]:
            clean = ""
        if clean:
            made[TowerNumber(TowerPlace(eps="", attack=CLEAN, **facts), float(clean), row["source"])] = None
        attacked = TowerPlace(eps=row["eps_255"], attack=row["attack"], **facts)
        made[TowerNumber(attacked, float(row["robust"]), row["source"])] = None
    return tuple(made)


def tower_number(place: TowerPlace) -> TowerNumber | Difference:
    """The printed number of a place, or what differs in the nearest one of the same method and data set."""
    same = [
        each
        for each in tower_numbers()
        if (each.place.method, each.place.dataset) == (place.method, place.dataset)
        and (each.place.attack == CLEAN) == (place.attack == CLEAN)
    ]
    if not same:
        return Difference(None, f"no source prints {place.method} on {place.dataset}")
    differs = {each: _differing(each.place, place) for each in same}
    order = tuple(FIELDS)
    nearest = min(same, key=lambda each: (len(differs[each]), [order.index(name) for name in reversed(differs[each])]))
    if not differs[nearest]:
        return nearest
    return Difference(nearest, f"{nearest.text} differs: {_words(nearest.place, place, differs[nearest])}")


def on_our_images(printed: TowerNumber | Difference, comparable: bool | None) -> TowerNumber | Difference:
    """A printed number where the images of our record are the official ones; else what differs.

    Args:
        comparable: of a record; None: not known.
    """
    if comparable is True or not isinstance(printed, TowerNumber):
        return printed
    what = "our images are not the official ones" if comparable is False else "nobody knows which images ours are"
    return Difference(printed, f"{printed.text} differs: {what}")


def _differing(printed: TowerPlace, ours: TowerPlace) -> list[str]:
    """The fields in which two places differ, those that matter most first."""
    small = ours.dataset in SMALL_IMAGES or ours.dataset.startswith("mean")
    skipped = {"attack_at"} if ours.attack == CLEAN or not small else set()
    skipped |= {"eps"} if ours.attack == CLEAN else set()
    names = [name for name in FIELDS if name not in skipped]
    return [name for name in names if getattr(printed, name) != getattr(ours, name)]


def _words(printed: TowerPlace, ours: TowerPlace, names: Iterable[str]) -> str:
    pairs = (
        (FIELDS[name], getattr(printed, name) or "not known", getattr(ours, name) or "not known") for name in names
    )
    return ", ".join(f"{name} {theirs}, not {mine}" for name, theirs, mine in pairs)
