"""The plan of one model on many data sets: a run of zero-shot CLIP for each, under the same attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advpt.backbones import clip
from advpt.data import catalog, demo_sets, zero_shot
from advpt.errors import ConfigError
from advpt.jobs import image_weights
from advpt.jobs.methods import ZEROSHOT
from advpt.jobs.places import missing_files
from advpt.jobs.plan import Pairs, Plan, Planner
from advpt.jobs.recipes import Recipes, quoted
from advpt.results.zero_shot import MeasuredSet, Tower

DEMO = "democlip"  # beginning of the names of models that read digits alone
PLAIN = "CLIP"  # papers' name of a tower that was not tuned
IMAGENET = "ImageNet"  # the data set with named subsets
# Settings that options of the verb give: printed numbers are looked up by these.
OPTIONS = {
    "MODEL.IMAGE_WEIGHTS": "--image-weights",
    "EVAL.ATTACKS": "--attack",
    "EVAL.SUBSET": "--subset",
    "EVAL.ATTACK_AT": "--attack-at",
    "DATASET.PROTOCOL": "--protocol",
    "DATASET.TEST_SUBSET": "--imagenet",
    "TRAINER.ZEROSHOTCLIP.TEMPLATES": "--templates",
}
CHANGING = ("MODEL.", "DATASET.", "INPUT.")  # begin the names of other settings that change the tower or its images
HARMLESS = ("MODEL.BACKBONE.NAME", "DATASET.ROOT")  # the first is looked up, the second is a folder


@dataclass(frozen=True)
class Evaluation:
    """One model and how it is evaluated.

    Args:
        model: name of a yaml of ``configs/backbones``, or ``democlip``. image_weights: of another image tower.
        protocol, attack_at, templates: as ``DATASET.PROTOCOL``, ``EVAL.ATTACK_AT`` and
            ``TRAINER.ZEROSHOTCLIP.TEMPLATES``; protocol "": TeCoA's, or CoOp's for DemoCLIP.
        attacks: in their short form. subset: images of each data set, 0 for all. imagenet: its ``TEST_SUBSET``.
        method, train_set: the tower as papers call it (:class:`~advpt.results.published_towers.TowerPlace`); method
            "": plain CLIP where there are no ``image_weights``, else nothing is looked up.
        more: settings of every run.

    Raises:
        ConfigError: one of ``more`` that an option gives.
    """

    model: str
    attacks: tuple[str, ...]
    image_weights: str = ""
    protocol: str = ""
    attack_at: str = "model"
    templates: str = ""
    subset: int = 0
    imagenet: str = "all"
    method: str = ""
    train_set: str = "none"
    more: Pairs = ()

    def __post_init__(self) -> None:
        for key, text in self.more:
            if key in OPTIONS:
                raise ConfigError(f"--set {key} {text}: expected the option of zero-shot, {OPTIONS[key]} {text}")

    @property
    def is_demo(self) -> bool:
        return self.model.startswith(DEMO)

    @property
    def images_of(self) -> str:
        """The protocol of the data sets."""
        return self.protocol or (zero_shot.COOP if self.is_demo else zero_shot.TECOA)

    def sets(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Short names of the data sets that are meant: those asked for, else all of TeCoA's, or the demo's.

        Raises:
            ConfigError: one that is not known, or that the protocol does not have.
        """
        if not asked:
            known = [catalog.get(name).config for name in zero_shot.table() if name in catalog.names()]
            return ("digits", *demo_sets.BY_ALIAS) if self.is_demo else tuple(known)
        names = tuple(name if name in demo_sets.BY_ALIAS else catalog.get(name).config for name in asked)
        for name in names:
            zero_shot.facts_of(name, self.images_of)
        return tuple(dict.fromkeys(names))

    def settings(self, dataset: str) -> Pairs:
        """Settings of the run on a data set."""
        pairs = [
            ("EVAL.ATTACKS", quoted(*(f"{attack}:adaptive" for attack in self.attacks))),
            ("EVAL.PROTOCOLS", quoted("adaptive")),
            ("EVAL.SUBSET", str(self.subset)),
            ("DATASET.PROTOCOL", self.images_of),
            ("EVAL.ATTACK_AT", self.attack_at if self.is_native(dataset) else "model"),
            ("TRAINER.ZEROSHOTCLIP.TEMPLATES", self.templates),
        ]
        pairs += [("DATASET.TEST_SUBSET", self.imagenet)] if catalog.canonical(dataset) == IMAGENET else []
        pairs += [("MODEL.IMAGE_WEIGHTS", self.image_weights)] if self.image_weights else []
        return (*pairs, *self.more)

    def tower(self, repository: Path) -> Tower | None:
        """The tower as papers call it; None where nobody says what it is."""
        recipes = Recipes(repository)
        values = recipes.values(recipes.of(ZEROSHOT, self.model, "digits"), self.more)
        name = str(values["MODEL.BACKBONE.NAME"])
        if any(key.startswith(CHANGING) and key not in HARMLESS for key, _ in self.more):
            return None
        if not self.method and (self.image_weights or values["MODEL.IMAGE_WEIGHTS"] or name not in clip.OFFICIAL):
            return None
        own = any(key.startswith("TRAINER.ZEROSHOTCLIP.") for key, _ in self.more)
        return Tower(
            method=self.method or PLAIN,
            backbone=name,
            train_set=self.train_set,
            protocol=self.images_of,
            prompt="own" if own else self.templates or self.images_of,
        )

    def measured(self, dataset: str, run: str) -> MeasuredSet:
        """A data set and its run, with the images and pixels of its evaluation."""
        name = catalog.canonical(dataset)
        named = self.imagenet if name == IMAGENET else "all"
        images = named if not self.subset else str(self.subset) if named == "all" else f"{self.subset} of {named}"
        at = self.attack_at if self.is_native(dataset) else "model"
        shown = demo_sets.BY_ALIAS[dataset].name if dataset in demo_sets.BY_ALIAS else name
        return MeasuredSet(shown, run, at, images)

    def is_native(self, dataset: str) -> bool:
        """Whether ``attack_at native`` is about this data set: its images have one size, and the papers that attack
        them at it read them without resizing."""
        rule = zero_shot.table().get(catalog.canonical(dataset))
        return rule is None or rule.native


def plan_of(evaluation: Evaluation, sets: Sequence[str], repository: Path) -> tuple[Plan, tuple[MeasuredSet, ...]]:
    """The runs, and where the numbers of each data set will be.

    Raises:
        ConfigError: no yaml of the model.
    """
    content = image_weights.mark(evaluation.image_weights)
    purpose = f"zero-shot-{content}" if content else "zero-shot"
    planner, recipes, measured = Planner(), Recipes(repository), []
    for dataset in sets:
        job = recipes.of(ZEROSHOT, evaluation.model, dataset)
        settings = (*job.settings, *evaluation.settings(dataset))
        made = planner.add(replace(job, purpose=purpose, settings=settings))
        measured.append(evaluation.measured(dataset, made))
    return planner.plan(), tuple(measured)


def split_by_data(sets: Sequence[str], root: Path, protocol: str) -> tuple[list[str], list[str]]:
    """The data sets whose files are there, and a sentence with the command that brings them for each of the others.

    Raises:
        ConfigError: none is there.
    """
    absent = {name: text for name in sets if (text := missing_files(name, root, protocol))}
    there = [name for name in sets if name not in absent]
    if not there:
        lines = "\n  ".join(absent.values())
        raise ConfigError(f"no data set is under {root}:\n  {lines}\nTo see it all small: --model {DEMO}")
    return there, list(absent.values())
