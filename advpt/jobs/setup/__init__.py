"""What a reproduction setup is: data sets, backbones, attacks, defenses and settings. Two are files beside this one:
the paper's, and the demo's small stand-ins."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advpt.errors import ConfigError, unknown_name
from advpt.jobs.plan import Pairs
from advpt.jobs.setup.benchmark import BenchmarkSetup
from advpt.jobs.setup.towers import TowerSetup


@dataclass(frozen=True)
class InputDefense:
    """A defense of Tables 2 and 3: its name in our tables, the chain, and the paper's name for the column whose numbers
    stand beside it, "" where the paper has no such defense."""

    name: str
    chain: str
    published: str = ""


@dataclass(frozen=True)
class PeerSetup:
    """The comparison of AdvPT with methods that tune prompts on few images.

    Args:
        attack: that all are judged under, in both protocols. bank: the attack of AdvPT's training bank.
        training_attacks: those of the others, by trainer. backbones: the first one is compared.
        settings: of all runs. words: what all prompts start as, "" for each method's own start.
        rates: learning rates by trainer. seeds: empty for those of the setup.
    """

    attack: str
    bank: str
    training_attacks: Mapping[str, str]
    backbones: tuple[str, ...]
    settings: Pairs = ()
    words: str = ""
    rates: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class TaptSetup:
    """The comparison with TAPT's paper.

    Args:
        datasets, backbones: that are compared. source: the data set that prompts are tuned on.
        attacks: by the paper's name, on the prompts as they were tuned.
        tuned, adaptive: attacks of those who know the tuning.
        shots: images per class for tuning and statistics. subset: images that are evaluated.
        pretraining: settings of all runs that tune prompts. context: leaves of the prompts' node, in them and in the
        evaluations. settings: of the evaluations. caption: what captions add.
    """

    datasets: tuple[str, ...]
    backbones: tuple[str, ...]
    source: str
    attacks: Mapping[str, str]
    tuned: str
    adaptive: str
    shots: int
    subset: int
    pretraining: Pairs = ()
    context: Pairs = ()
    settings: Pairs = ()
    caption: str = ""


@dataclass(frozen=True)
class TestTimeBudget:
    """An attack on defenses at test time, under every protocol, and where published numbers under it stand: the
    attack's name there, and by backbone the paper and table; empty where there are none."""

    __test__ = False  # not one of pytest's
    attack: str
    published: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TestTimeSetup:
    """The comparison of defenses at test time.

    Args:
        datasets, backbones: that are compared, with the hand-written prompt. budgets: one table for each.
        defenses: by group; those of a group are measured in one run, and share what they can.
        inputs: defenses of the input, measured with the group of ``inputs_with``.
        published: by our name of a defense ("none" without one) that of the papers.
        subset: images under ``static``. some: of these under ``pseudo`` and ``adaptive``.
        settings: of all runs. caption: what captions add.
    """

    __test__ = False  # not one of pytest's
    datasets: tuple[str, ...]
    backbones: tuple[str, ...]
    budgets: tuple[TestTimeBudget, ...]
    defenses: Mapping[str, tuple[str, ...]]
    inputs: tuple[str, ...]
    inputs_with: str
    subset: int
    some: int
    published: Mapping[str, str] = field(default_factory=dict)
    settings: Pairs = ()
    caption: str = ""


@dataclass(frozen=True)
class ReproductionSetup:
    """Everything that differs between one reproduction and another. Names are those of the yaml files, attacks are in
    their short form.

    Args:
        datasets: of Tables 1 to 5 and Figure 3. probed: of Table 4. source, targets: of the domain shift.
        timed, timed_backbones: of the figures over wall-clock and over the number of context vectors.
        names: the papers' names of data sets and backbones. bank: the attack of AdvPT's training bank.
        pgd, rap, aa: attacks that do not know the learned prompt. adaptive, aa_adaptive: those that do.
        budgets: of the curve over eps, in 1/255. budget_steps: steps of its attack.
        defenses: of Tables 2 and 3. together: one evaluation serves both tables.
        common: settings of every run. contexts: numbers of context vectors.
        curve_every: epochs between the points of a curve over wall-clock, by trainer.
        clock_settings: of the runs behind such curves, by trainer.
        subset: test images of a run, 0 for all. defended_subset, clock_subset: the same behind defenses and for curves.
        clock_seeds: so many of the seeds for curves, 0 for all.
        captions: what captions add, by exhibit; ``all``: to every one.
    """

    name: str
    datasets: tuple[str, ...]
    probed: tuple[str, ...]
    source: str
    targets: tuple[str, ...]
    backbones: tuple[str, ...]
    timed: tuple[str, ...]
    timed_backbones: tuple[str, ...]
    names: Mapping[str, str]
    seeds: tuple[int, ...]
    pgd: str
    rap: str
    aa: str
    adaptive: str
    aa_adaptive: str
    bank: str
    budgets: tuple[str, ...]
    budget_steps: int
    defenses: tuple[InputDefense, ...]
    together: bool
    common: Pairs
    contexts: tuple[int, ...]
    curve_every: Mapping[str, int]
    peers: PeerSetup
    tapt: TaptSetup
    test_time: TestTimeSetup
    towers: TowerSetup
    benchmark: BenchmarkSetup
    clock_settings: Mapping[str, Pairs] = field(default_factory=dict)
    subset: int = 0
    defended_subset: int = 0
    clock_subset: int = 0
    clock_seeds: int = 0
    captions: Mapping[str, str] = field(default_factory=dict)

    def column(self, name: str) -> str:
        """The paper's name of a data set or backbone."""
        return self.names.get(name, name)

    def defense(self, name: str) -> InputDefense:
        """The defense of that name."""
        return next(each for each in self.defenses if each.name == name)

    def caption(self, *exhibits: str) -> str:
        """What captions of these exhibits add."""
        return " ".join(self.captions[name] for name in ("all", *exhibits) if self.captions.get(name))

    def narrowed(self, only: Sequence[str], backbones: Sequence[str], seeds: Sequence[int]) -> ReproductionSetup:
        """The same with some data sets, backbones or seeds only; an empty list leaves them as they are.

        Raises:
            ConfigError: an unknown name, with the known ones.
        """
        datasets = {*self.datasets, *self.targets, *self.timed, *self.tapt.datasets, *self.test_time.datasets}
        datasets |= {*self.towers.datasets, *self.benchmark.datasets}
        every_backbone = {*self.backbones, *self.tapt.backbones, *self.test_time.backbones, *self.towers.backbones}
        every_backbone |= {*self.benchmark.backbones}
        for name in only:
            if name not in datasets:
                raise ConfigError(f"--only: {unknown_name('data set', name, datasets)}")
        for name in backbones:
            if name not in every_backbone:
                raise ConfigError(f"--backbones: {unknown_name('backbone', name, every_backbone)}")

        def keep(names: tuple[str, ...], wanted: Sequence[str]) -> tuple[str, ...]:
            return tuple(name for name in names if not wanted or name in wanted)

        of_peers = keep(self.peers.backbones, backbones)
        peers = dataclasses.replace(self.peers, backbones=of_peers, seeds=tuple(seeds) or self.peers.seeds)
        of_tapt = keep(self.tapt.backbones, backbones)
        tapt = dataclasses.replace(self.tapt, datasets=keep(self.tapt.datasets, only), backbones=of_tapt)
        names = keep(self.test_time.datasets, only), keep(self.test_time.backbones, backbones)
        of_test_time = dataclasses.replace(self.test_time, datasets=names[0], backbones=names[1])
        names = keep(self.towers.datasets, only), keep(self.towers.backbones, backbones)
        of_towers = dataclasses.replace(self.towers, datasets=names[0], backbones=names[1])
        names = keep(self.benchmark.datasets, only), keep(self.benchmark.backbones, backbones)
        of_benchmark = dataclasses.replace(self.benchmark, datasets=names[0], backbones=names[1])
        return dataclasses.replace(
            self,
            datasets=keep(self.datasets, only),
            probed=keep(self.probed, only),
            targets=keep(self.targets, only) if set(only) & set(self.targets) else self.targets,
            timed=keep(self.timed, only),
            backbones=keep(self.backbones, backbones),
            timed_backbones=keep(self.timed_backbones, backbones),
            seeds=tuple(seeds) or self.seeds,
            peers=peers,
            tapt=tapt,
            test_time=of_test_time,
            towers=of_towers,
            benchmark=of_benchmark,
        )


def _tuples(value: Any) -> Any:
    """TOML's lists as tuples, also within tables."""
    if isinstance(value, dict):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _load(name: str) -> ReproductionSetup:
    """The setup in ``<name>.toml``; a name that no field has, or a field that has no value, is a TypeError."""
    values = _tuples(tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8")))
    values["defenses"] = tuple(InputDefense(**each) for each in values["defenses"])
    budgets = tuple(TestTimeBudget(**each) for each in values["test_time"]["budgets"])
    values |= {"peers": PeerSetup(**values["peers"]), "tapt": TaptSetup(**values["tapt"])}
    values["towers"] = TowerSetup.of(values["towers"])
    values["benchmark"] = BenchmarkSetup.of(values["benchmark"])
    values["test_time"] = TestTimeSetup(**{**values["test_time"], "budgets": budgets})
    return ReproductionSetup(name, **values)


PAPER, DEMO = _load("paper"), _load("demo")
