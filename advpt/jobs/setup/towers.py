"""What the comparison of fine-tuned image towers is: methods, attacks, data sets, and the prompts and defenses that
stand on one of the towers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advpt.jobs.plan import Pairs


@dataclass(frozen=True)
class StackSetup:
    """Tower x prompt x defense at test time, on the data set that the towers were tuned on.

    Args:
        tower: the method whose tower is compared with the untuned one, of its first seed.
        bank: the attack of AdvPT's training bank, through each tower. shots: images per class of the prompts' tuning.
        attack: of those who do not know the defense, and of those who do. defenses: behind each prompt.
        subset: images. some: of these, those under the attack of who knows the defense.
        prompts: settings of the runs that tune prompts. settings: of all runs.
    """

    tower: str
    bank: str
    shots: int
    attack: str
    defenses: tuple[str, ...]
    subset: int
    some: int
    prompts: Pairs = ()
    settings: Pairs = ()


@dataclass(frozen=True)
class TowerSetup:
    """Towers that are tuned on one data set.

    Args:
        source: the data set that they are tuned on. datasets: those that they are evaluated on. backbones: one
            table for each data set and backbone.
        training_attacks: by trainer, in the order of the rows.
        untuned, transfer, adaptive: attacks of those who have the tower before it was tuned, of those who know the
            tuned tower and no prompt, and of those who know all.
        shots: images per class of the towers' tuning, -1 for all. subset: images that are evaluated, 0 for all.
        stack: prompts and defenses on one of the towers.
        training: settings of the runs that tune towers. settings: of all runs.
        train_set: what papers call the training, with its budget; protocol, prompt: whose images and texts these are
            (:class:`advpt.results.published_towers.TowerPlace`); "" where nothing is published.
        caption: what captions add.
    """

    source: str
    datasets: tuple[str, ...]
    backbones: tuple[str, ...]
    training_attacks: Mapping[str, str]
    untuned: tuple[str, ...]
    transfer: tuple[str, ...]
    adaptive: tuple[str, ...]
    shots: int
    subset: int
    stack: StackSetup
    training: Pairs = ()
    settings: Pairs = ()
    train_set: str = ""
    protocol: str = ""
    prompt: str = ""
    caption: str = ""

    @property
    def attacks(self) -> dict[str, tuple[str, ...]]:
        """The attacks of each protocol."""
        return {"untuned": self.untuned, "transfer": self.transfer, "adaptive": self.adaptive}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TowerSetup:
        """From the values of a file."""
        return cls(**{**values, "stack": StackSetup(**values["stack"])})
