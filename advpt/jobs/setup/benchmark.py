"""What a benchmark is: base models, prompts, defenses and budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advpt.jobs.plan import Pairs


@dataclass(frozen=True)
class BenchmarkBudget:
    """Attacks of one budget: ``attack`` of those who know the undefended model (``static``, ``pseudo``) or all
    (``adaptive``), ``transfer`` of those who know the hand-written prompt alone."""

    attack: str
    transfer: tuple[str, ...]


@dataclass(frozen=True)
class BenchmarkSetup:
    """A grid of base model x prompt x input defense x defense at test time.

    Args:
        datasets, backbones: one table for each of both and each budget.
        prompts: trainers of prompts, zero-shot CLIP's hand-written one first.
        towers: trainers of fine-tuned image towers, with their training attacks; the untuned tower is always there.
        on_towers: of ``prompts``, those that stand on tuned towers as well.
        bank: the attack of AdvPT's training bank.
        inputs: defenses of the input. defenses: defenses at test time.
        budgets: of the attacks.
        shots, tower_shots: images per class of the tuning of prompts and towers, -1 for all.
        subset: images under attackers who do not know the defense. some: of these, those under the others.
        tuning, tower_tuning: settings of the runs that tune prompts, and towers. settings: of all runs.
        caption: what captions add.
    """

    datasets: tuple[str, ...]
    backbones: tuple[str, ...]
    prompts: tuple[str, ...]
    towers: Mapping[str, str]
    on_towers: tuple[str, ...]
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
