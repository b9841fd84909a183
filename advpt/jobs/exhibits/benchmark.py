"""The benchmark: image towers, prompts and defenses under attackers who know less or more, and how much of each gain an
attacker who knows all leaves. Not in AdvPT's paper.

One run for each base model (a tower and a prompt) and seed. It tunes what is to be tuned, and measures all defenses
under all attacks of all budgets, so that they share views, gradients and banks.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advpt.attacks import parse as parse_attack
from advpt.defenses import parse as parse_defense
from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import NO_DEFENSE, caption
from advpt.jobs.exhibits.towers import HAND, TOWER
from advpt.jobs.methods import ADVPT, BY_IMAGE, COOP_CLEAN, NO_TEXT, PROBE, PUBLISHED_TOWERS, ZEROSHOT, table_name
from advpt.jobs.plan import Pairs, Plan
from advpt.jobs.recipes import quoted
from advpt.jobs.setup import ReproductionSetup
from advpt.jobs.setup.benchmark import BenchmarkBudget, BenchmarkSetup
from advpt.results.exhibit import BenchmarkRow, BenchmarkTable, Exhibit, SurvivalTable
from advpt.results.published import PaperCell, defense_cell
from advpt.test_time import parse as parse_test_time

PROTOCOLS = ("static", "pseudo", "adaptive")
START = "/start="  # of defenses that tune a prompt
FEWEST_SEEDS = 3
# What the adaptive attack is: where there are defenses at test time, and where there are none.
WORST = "and is per image the worst of several attacks, of which the table names the one that won"
PLAIN = "by the same attack"


@dataclass(frozen=True)
class Base:
    """What stands before defenses.

    Args:
        tower: the method that tuned it, "" for the backbone's own. prompt: of :mod:`advpt.jobs.methods`.
        runs: one for each seed. recorded: by the name of a defense, that of records.
    """

    tower: str
    prompt: str
    runs: tuple[str, ...]
    recorded: Mapping[str, str]


@dataclass(frozen=True)
class BenchmarkPlan:
    """Tables of a benchmark, the plan of the runs that they need, and sentences on what is left out."""

    exhibits: tuple[Exhibit, ...]
    plan: Plan
    left_out: tuple[str, ...]


@dataclass
class _Bases:
    """Makes the bases of one data set and backbone; ``left_out`` collects sentences."""

    b: Builder
    dataset: str
    backbone: str
    left_out: list[str] = field(default_factory=list)

    def all(self) -> list[Base]:
        s = self.b.setup.benchmark
        made = [self._base("", prompt, ()) for prompt in s.prompts]
        for tower in s.towers:
            tuned = self._base(tower, ZEROSHOT, ())
            towers = self._tuned(tower) if s.tunes_apart(self.dataset) else tuned.runs
            others = (prompt for prompt in s.on_towers if prompt != ZEROSHOT)
            made += [tuned, *(self._base(tower, prompt, towers) for prompt in others)]
        return made

    def _base(self, tower: str, prompt: str, towers: tuple[str, ...]) -> Base:
        """A prompt on the backbone's own tower, or on one that was tuned (``towers``: those runs, where the prompt is
        tuned on it)."""
        b, s, recorded = self.b, self.b.setup.benchmark, self._recorded(tower, prompt)
        tuners = quoted(*(text for name, text in recorded.items() if name in s.defenses))
        about: Pairs = (*s.settings,)
        if s.defenses:
            about = (("EVAL.TEST_TIME", tuners), ("EVAL.ADAPTIVE_SUBSET", str(s.some)), *about)
        evaluation = Evaluation(_attacks(s.budgets), s.inputs, s.subset)
        purpose = "benchmark" + (f"-{tower}" if towers else "")
        if tower and not towers:
            return Base(tower, prompt, self._on_tower(tower, evaluation, about), recorded)
        tuning = () if prompt == ZEROSHOT else s.tuning
        tuning += (("BANK.ATTACK", s.bank),) if prompt == ADVPT else ()
        runs, shots = [], -1 if prompt == ZEROSHOT else s.shots
        for seed, run in itertools.zip_longest(b.setup.seeds if towers else b.seeds(prompt), towers):
            loaded: Pairs = (("MODEL.IMAGE_WEIGHTS", f"{run}/{TOWER}"),) if run else ()
            place = (prompt, self.dataset, self.backbone, seed, purpose)
            runs.append(b.job(*place, evaluation, (*tuning, *about), shots=shots, runs=loaded))
        return Base(tower, prompt, tuple(runs), recorded)

    def _on_tower(self, tower: str, evaluation: Evaluation, about: Pairs) -> tuple[str, ...]:
        """The hand-written prompt on a tower: runs that tune and evaluate it, or evaluate what others tuned."""
        b, s = self.b, self.b.setup.benchmark
        place = (tower, self.dataset, self.backbone)
        if s.tunes_apart(self.dataset):
            models = zip(b.setup.seeds, self._tuned(tower))
            return tuple(b.job(*place, seed, "benchmark", evaluation, about, model=model) for seed, model in models)
        tuning = (*self._training(tower), *about)
        seeds = b.setup.seeds
        return tuple(b.job(*place, seed, "benchmark", evaluation, tuning, shots=s.tower_shots) for seed in seeds)

    def _tuned(self, tower: str) -> tuple[str, ...]:
        """The runs that tune a tower on the source, and measure it on clean images alone."""
        b, s = self.b, self.b.setup.benchmark
        place, tuning, evaluation = (tower, s.source, self.backbone), self._training(tower), Evaluation(subset=s.subset)
        seeds = b.setup.seeds
        return tuple(b.job(*place, seed, "tuning", evaluation, tuning, shots=s.tower_shots) for seed in seeds)

    def _training(self, tower: str) -> Pairs:
        s = self.b.setup.benchmark
        attack = s.towers[tower]
        return (*(((f"TRAINER.{tower.upper()}.ATTACK", attack),) if attack else ()), *s.tower_tuning)

    def _recorded(self, tower: str, prompt: str) -> dict[str, str]:
        """No defense and every one that this base can have, by name as records call it."""
        s, made = self.b.setup.benchmark, {NO_DEFENSE: ""}
        made |= {name: str(parse_defense(name)) for name in s.inputs}
        for name in s.defenses:
            text, why = for_prompt(name, prompt)
            if why:
                base = f"{PUBLISHED_TOWERS.get(tower, tower)}, {prompt}" if tower else prompt
                self.left_out.append(f"{name} behind {base}: {why}")
            else:
                made[name] = text
        return made


def for_prompt(name: str, prompt: str) -> tuple[str, str]:
    """A defense at test time as records call it behind a prompt, "" where it cannot stand there, and why. Those that
    tune a prompt start from the learned one, where there is one, unless their name says another start.

    Raises:
        ConfigError: no such defense.
    """
    spec, start = parse_test_time(name), name.partition(START)[2].partition("/")[0]
    if not spec.kind.tunes_text:
        return str(spec), ""
    if prompt == PROBE:
        return "", "it tunes the words that classify, and a linear probe has none"
    if prompt in BY_IMAGE and start != "hand":
        return "", f"it tunes one prompt, and that of {prompt} differs from image to image"
    if prompt in (ZEROSHOT, *NO_TEXT) and start == "learned":
        return "", "it starts from a learned prompt, and the hand-written one is none"
    return str(spec if start or prompt in (ZEROSHOT, *NO_TEXT) else parse_test_time(f"{name}{START}learned")), ""


def plan_benchmark(setup: ReproductionSetup, repository: Path, more: Sequence[tuple[str, str]] = ()) -> BenchmarkPlan:
    """The benchmark of a set-up.

    Args:
        repository: the checkout with the yaml files. more: settings of every run.

    Raises:
        ConfigError: a data set, backbone or defense that does not exist.
    """
    builder, left_out = Builder(setup, repository, more), list[str]()
    made = exhibits(builder, left_out)
    return BenchmarkPlan(tuple(made), builder.plan(), tuple(dict.fromkeys(left_out)))


def exhibits(b: Builder, left_out: list[str] | None = None) -> list[Exhibit]:
    """A table of all rows and one of their gains for each data set, backbone and budget; ``left_out`` takes sentences
    on defenses that a prompt cannot have."""
    s, made = b.setup.benchmark, list[Exhibit]()
    for dataset, backbone in itertools.product(s.datasets, s.backbones):
        bases = _Bases(b, dataset, backbone, [] if left_out is None else left_out).all()
        for budget in s.budgets:
            table = _table(b, dataset, backbone, budget, bases)
            made += [table, survival(b, table, budget, f"{_about(b)} {_source(b, budget, backbone)}")]
    return made


def survival(b: Builder, table: BenchmarkTable, budget: BenchmarkBudget, about: str = "") -> SurvivalTable:
    """The gains of a table. ``about``: sentences on what it has, for the caption."""
    title = f"Published and adaptive gains: {table.title.partition(': ')[2]}"
    return SurvivalTable(f"{table.name}_survival", title, caption(b, "survival", budget=budget, about=about), table)


def _attacks(budgets: Sequence[BenchmarkBudget]) -> tuple[str, ...]:
    """Every attack with its protocol."""
    return tuple(
        text
        for budget in budgets
        for text in (
            *(f"{attack}:transfer" for attack in budget.transfer),
            *(f"{budget.attack}:{protocol}" for protocol in PROTOCOLS),
        )
    )


def _table(b: Builder, dataset: str, backbone: str, budget: BenchmarkBudget, bases: Sequence[Base]) -> BenchmarkTable:
    s, names = b.setup.benchmark, (b.setup.column(backbone), b.setup.column(dataset))
    rows, undefended = list[BenchmarkRow](), dict[tuple[str, str], int]()
    for base in bases:
        undefended[base.tower, base.prompt] = len(rows)
        for name, recorded in base.recorded.items():
            against, authors = _compared(base, name, undefended)
            plain = not base.tower and base.prompt == ZEROSHOT
            published = _published(b, dataset, backbone, budget, name) if plain else (None, None)
            tower = PUBLISHED_TOWERS.get(base.tower, base.tower) or names[0]
            prompt = HAND if base.prompt == ZEROSHOT else table_name(base.prompt)
            rows.append(BenchmarkRow(tower, prompt, name, recorded, base.runs, against, authors, *published))
    some = s.some if s.defenses else s.subset
    facts = {"transfers": " and ".join(budget.transfer), "adaptive": WORST if s.defenses else PLAIN}
    facts |= {"images": _images(s), "bases": _about(b), "source": _source(b, budget, backbone)}
    text = caption(b, "benchmark", budget=budget, **facts)
    title = f"Benchmark: {', '.join(names)}, {budget.eps:g}/255"
    place = (f"benchmark_{dataset}_{backbone}_{budget.eps:g}", title, text, *names)
    return BenchmarkTable(*place, budget.attack, budget.transfer, s.subset, some, tuple(rows))


def _compared(base: Base, name: str, undefended: Mapping[tuple[str, str], int]) -> tuple[int | None, str]:
    """The row without a row's method, and the protocol by which the method's authors measure."""
    if name != NO_DEFENSE:
        return undefended[base.tower, base.prompt], "static"
    if base.prompt != ZEROSHOT:
        return undefended[base.tower, ZEROSHOT], "transfer"
    return (undefended["", ZEROSHOT] if base.tower else None), "static"


def _images(s: BenchmarkSetup) -> str:
    """A sentence on how many are attacked."""
    images = f"the same {s.subset} images" if s.subset else "all images"
    few = f"; pseudo and adaptive {s.some} of them" if s.defenses and s.some and s.some != s.subset else ""
    return f"All attack {images}{few}."


def _about(b: Builder) -> str:
    """Sentences on the towers, the prompts and the seeds of a caption."""
    s, made = b.setup.benchmark, []
    if s.towers:
        trained = (f"{PUBLISHED_TOWERS.get(name, name)} {attack}".strip() for name, attack in s.towers.items())
        made.append(f"Towers are tuned on {b.setup.column(s.source)}: {', '.join(trained)}.")
    if ADVPT in s.prompts:
        made.append(f"AdvPT is tuned on a bank under {s.bank}.")
    if COOP_CLEAN in s.prompts:
        made.append(f"{table_name(COOP_CLEAN)}, is CoOp by AdvPT's recipe, on embeddings of clean images.")
    if s.towers or len(s.prompts) > 1:
        n = len(b.setup.seeds)
        what = "of seeds and images" if n >= FEWEST_SEEDS else "of the images alone: another seed may give another rank"
        made.append(f"What is tuned has {n} seed{'s' * (n > 1)}; intervals are {what}.")
    return " ".join(made)


# --- published numbers ------------------------------------------------------------------------------------------------


def _place(b: Builder, budget: BenchmarkBudget, backbone: str) -> tuple[str, str]:
    """The paper and table with numbers under this attack, and the attack's name there; "" where there is none."""
    for each in b.setup.test_time.budgets:
        if parse_attack(each.attack) == parse_attack(budget.attack) and each.published:
            return each.sources.get(backbone, ""), each.published
    return "", ""


def _source(b: Builder, budget: BenchmarkBudget, backbone: str) -> str:
    """What stands beside our numbers."""
    source, attack = _place(b, budget, backbone)
    return f"Published: {source}, {attack}, made on plain CLIP with the true label." if source else ""


def _published(
    b: Builder, dataset: str, backbone: str, budget: BenchmarkBudget, name: str
) -> tuple[PaperCell | None, PaperCell | None]:
    """Where the clean and the static accuracy of a defense are printed."""
    method, (source, attack) = b.setup.test_time.published.get(name), _place(b, budget, backbone)
    if not method or not source:
        return None, None
    about = (source, b.setup.column(backbone), b.setup.column(dataset), method)
    return defense_cell(*about), defense_cell(*about, attack, f"{budget.eps:g}")
