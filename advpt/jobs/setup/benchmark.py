"""What a benchmark is: base models, prompts, defenses and budgets; and which of them a user asks for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advpt.attacks import parse as parse_attack
from advpt.attacks.spec import parse_eps
from advpt.errors import ConfigError, unknown_name
from advpt.jobs import methods
from advpt.jobs.plan import Pairs

NONE, ALL = "none", "all"  # in the place of names
UNTUNED = ("TRAINER.ZEROSHOTCLIP.", "DATASET.")  # begin settings of which prompt, and of which images


@dataclass(frozen=True)
class BenchmarkBudget:
    """Attacks of one budget: ``attack`` of those who know the undefended model (``static``, ``pseudo``) or all
    (``adaptive``), ``transfer`` of those who know the hand-written prompt alone."""

    attack: str
    transfer: tuple[str, ...]

    @property
    def eps(self) -> float:
        """In 1/255."""
        return parse_attack(self.attack).eps

    def at(self, eps: float) -> BenchmarkBudget:
        """The same attacks at another budget, with steps that are as large a part of it."""
        ratio = eps / self.eps

        def scaled(text: str) -> str:
            text = re.sub(r"@([\d.]+)", f"@{eps:g}", text)
            return re.sub(r"/a([\d.]+)", lambda step: f"/a{float(step[1]) * ratio:g}", text)

        return BenchmarkBudget(scaled(self.attack), tuple(map(scaled, self.transfer)))


@dataclass(frozen=True)
class Choice:
    """What a user asks for.

    Args:
        sets, backbones, budgets: empty for those of the set-up. prompts, towers, inputs, defenses: where one of these
            is named, those that are not are none, else they are the set-up's; ``all`` stands for the set-up's, ``none``
            for none.
        subset, some: images, None for those of the set-up.
    """

    sets: Sequence[str] = ()
    backbones: Sequence[str] = ()
    prompts: Sequence[str] = ()
    towers: Sequence[str] = ()
    inputs: Sequence[str] = ()
    defenses: Sequence[str] = ()
    budgets: Sequence[str] = ()
    subset: int | None = None
    some: int | None = None


@dataclass(frozen=True)
class BenchmarkSetup:
    """A grid of base model x prompt x input defense x defense at test time.

    Args:
        datasets, backbones: one table for each of both and each budget.
        prompts: trainers of prompts, zero-shot CLIP's hand-written one first.
        towers: trainers of fine-tuned image towers, with their training attacks, "" for those of their recipes; the
            untuned tower is always there.
        on_towers: of ``prompts``, those that stand on tuned towers as well.
        source: the data set that towers are tuned on.
        bank: the attack of AdvPT's training bank.
        inputs: defenses of the input. defenses: defenses at test time.
        budgets: of the attacks.
        shots, tower_shots: images per class of the tuning of prompts and towers, -1 for all.
        subset: images under attackers who do not know the defense. some: of these, those under the others.
        tuning, tower_tuning: settings of the runs that tune prompts, and towers. settings: of all runs that are
            evaluated.
        caption: what captions add.
    """

    datasets: tuple[str, ...]
    backbones: tuple[str, ...]
    prompts: tuple[str, ...]
    towers: Mapping[str, str]
    on_towers: tuple[str, ...]
    source: str
    bank: str
    inputs: tuple[str, ...]
    defenses: tuple[str, ...]
    budgets: tuple[BenchmarkBudget, ...]
    shots: int
    tower_shots: int
    subset: int
    some: int
    tuning: Pairs = ()
    tower_tuning: Pairs = ()
    settings: Pairs = ()
    caption: str = ""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> BenchmarkSetup:
        """From the values of a file."""
        budgets = tuple(BenchmarkBudget(**each) for each in values["budgets"])
        return cls(**{**values, "budgets": budgets})

    def tunes_apart(self, dataset: str) -> bool:
        """Whether towers are tuned in runs of their own: on another data set than ``dataset``, which they are evaluated
        on, or with another hand-written prompt."""
        return dataset != self.source or any(key.startswith(UNTUNED) for key, _ in self.tower_tuning)

    def chosen(
        self, asked: Choice, attacks: Mapping[str, str], prompts: Sequence[str], towers: Sequence[str]
    ) -> BenchmarkSetup:
        """The part that a user asks for.

        Args:
            attacks: training attacks of towers that the set-up does not have by itself.
            prompts, towers: names of trainers that there are, of both kinds.

        Raises:
            ConfigError: a prompt or a tower that nobody tunes, or a number that cannot be.
        """
        axes = (asked.prompts, asked.towers, asked.inputs, asked.defenses)
        rest = (NONE,) if any(axes) else (ALL,)
        prompted, tuned, inputs, defenses = (tuple(axis or rest) for axis in axes)
        attacks, known = {**attacks, **self.towers}, (methods.ZEROSHOT, methods.COOP_CLEAN, *prompts)
        prompted = _names("--prompts", prompted, self.prompts, known)
        prompted = tuple(dict.fromkeys((methods.ZEROSHOT, *prompted)))  # that all others are compared with
        tuned = _names("--towers", tuned, tuple(self.towers), towers)
        subset = self.subset if asked.subset is None else asked.subset
        some = self.some if asked.some is None else asked.some
        for option, images in (("--subset", subset), ("--adaptive-subset", some)):
            if images < 0:
                raise ConfigError(f"{option} is {images}; expected a number of images, or 0 for all")
        return dataclasses.replace(
            self,
            datasets=tuple(dict.fromkeys(asked.sets)) or self.datasets,
            backbones=tuple(dict.fromkeys(asked.backbones)) or self.backbones,
            prompts=prompted,
            towers={name: attacks.get(name, "") for name in tuned},
            on_towers=tuple(name for name in self.on_towers if name in prompted),
            inputs=_names("--inputs", inputs, self.inputs),
            defenses=_names("--defenses", defenses, self.defenses),
            budgets=self._budgets(asked.budgets),
            subset=subset,
            some=min(subset, some) if subset and some else some or subset,
        )

    def _budgets(self, texts: Sequence[str]) -> tuple[BenchmarkBudget, ...]:
        """Attacks of each budget: those of the set-up, or its last ones with other numbers."""
        own = {budget.eps: budget for budget in self.budgets}
        wanted = dict.fromkeys(parse_eps(text, what="--budgets") for text in texts)
        return tuple(own.get(eps) or self.budgets[-1].at(eps) for eps in wanted) or self.budgets


def _names(option: str, asked: tuple[str, ...], own: tuple[str, ...], known: Sequence[str] = ()) -> tuple[str, ...]:
    """Names in the place of ``all`` and ``none``. Raises ConfigError for one that is not ``known``, where any are."""
    names = [name for each in asked if each != NONE for name in (own if each == ALL else (each,))]
    for name in names:
        if known and name not in known:
            raise ConfigError(f"{option}: {unknown_name('name', name, [*dict.fromkeys(known), ALL, NONE])}")
    return tuple(dict.fromkeys(names))
