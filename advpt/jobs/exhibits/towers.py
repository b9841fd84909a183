"""Fine-tuned image towers, alone and below prompts and defenses at test time. Not in AdvPT's paper.

Each method tunes a tower on one data set and is evaluated with the hand-written prompt. On one of these towers, and on
the one that was not tuned, prompts are tuned and defenses stand behind them.
"""

from __future__ import annotations

import itertools

from advpt.attacks import parse as parse_attack
from advpt.backbones.tuned_tower import FILE
from advpt.data import catalog
from advpt.evaluation.saved_run import IMAGE_ENCODER
from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import NO_DEFENSE, caption
from advpt.jobs.methods import ADVPT, COOP, COOP_CLEAN, PUBLISHED_TOWERS, ZEROSHOT, table_name
from advpt.jobs.plan import Pairs
from advpt.jobs.recipes import quoted
from advpt.results.exhibit import (
    CLEAN,
    DefenseRow,
    DefenseTable,
    Exhibit,
    Metric,
    Stack,
    StackTable,
    TowerRow,
    TowerTable,
    robust,
)
from advpt.results.published_towers import Difference, TowerNumber, TowerPlace, paper_attack, tower_number
from advpt.test_time import parse as parse_test_time

PLAIN = "CLIP"  # as it is
HAND = "hand-written"
TOWER = f"{IMAGE_ENCODER}/{FILE}"  # in the folder of a run that tunes one
PROTOCOLS = ("static", "adaptive")
IMAGENET = "ImageNet"  # recipes of some trainers test a part of it


def exhibits(b: Builder) -> list[Exhibit]:
    s, made = b.setup.towers, list[Exhibit]()
    for backbone in s.backbones:
        tuned = {method: _tuned(b, method, backbone) for method in s.training_attacks}
        made += [_table(b, dataset, backbone, tuned) for dataset in s.datasets]
        if s.source in s.datasets:
            made.append(_stacks(b, backbone, tuned[s.stack.tower][0]))
    return made


# --- towers ---------------------------------------------------------------------------------------------------------


def _attacks(b: Builder) -> tuple[str, ...]:
    """Every attack with its protocol, by budget."""
    pairs = [(text, protocol) for protocol, texts in b.setup.towers.attacks.items() for text in texts]
    ordered = sorted(pairs, key=lambda pair: parse_attack(pair[0]).eps)
    return tuple(f"{text}:{protocol}" for text, protocol in ordered)


def _columns(b: Builder) -> tuple[tuple[str, Metric], ...]:
    """The head of each number, and which it is; attacks of one protocol and budget have their names in it."""
    s, made = b.setup.towers, [("clean", CLEAN)]
    for asked in _attacks(b):
        text, _, protocol = asked.partition(":")
        spec, alike = parse_attack(text), s.attacks[protocol]
        several = sum(parse_attack(each).eps == spec.eps for each in alike) > 1
        head = f"{protocol}, {paper_attack(spec)}" if several else protocol
        made.append((f"{head}, {spec.eps:g}/255", robust(text, protocol)))
    return tuple(made)


def _settings(b: Builder, dataset: str) -> Pairs:
    """Settings of every run on a data set: all test images, whatever a trainer's own recipe tests."""
    whole: Pairs = (("DATASET.TEST_SUBSET", "all"),) if catalog.canonical(dataset) == IMAGENET else ()
    return (*whole, *b.setup.towers.settings)


def _tuned(b: Builder, method: str, backbone: str) -> tuple[str, ...]:
    """The runs that tune a tower and evaluate it on the same data set, one for each seed."""
    s = b.setup.towers
    attack = (f"TRAINER.{method.upper()}.ATTACK", s.training_attacks[method])
    settings, evaluation = (attack, *s.training, *_settings(b, s.source)), Evaluation(_attacks(b), subset=s.subset)
    about = (method, s.source, backbone)
    return tuple(b.job(*about, seed, "towers", evaluation, settings, shots=s.shots) for seed in b.setup.seeds)


def _table(b: Builder, dataset: str, backbone: str, tuned: dict[str, tuple[str, ...]]) -> TowerTable:
    s, columns, rows = b.setup.towers, _columns(b), []
    evaluation = Evaluation(_attacks(b), subset=s.subset)
    for method in (PLAIN, *tuned):
        runs: tuple[str, ...]
        if method == PLAIN:
            runs = (b.job(ZEROSHOT, dataset, backbone, b.setup.seeds[0], "towers", evaluation, _settings(b, dataset)),)
        elif dataset == s.source:
            runs = tuned[method]
        else:
            runs = tuple(
                b.job(method, dataset, backbone, seed, "towers", evaluation, _settings(b, dataset), model=model)
                for seed, model in zip(b.setup.seeds, tuned[method])
            )
        name = PUBLISHED_TOWERS.get(method, method)
        published = tuple(_published(b, name, dataset, backbone, metric) for _, metric in columns)
        rows.append(TowerRow(name, runs, published if s.train_set else ()))
    names = (b.setup.column(backbone), b.setup.column(dataset))
    trained = ", ".join(f"{PUBLISHED_TOWERS.get(name, name)} {attack}" for name, attack in s.training_attacks.items())
    text = caption(b, "towers", source=b.setup.column(s.source), trained=trained)
    title = f"Fine-tuned image towers: {', '.join(names)}"
    return TowerTable(f"towers_{dataset}_{backbone}", title, text, *names, columns, tuple(rows))


def _published(b: Builder, method: str, dataset: str, backbone: str, metric: Metric) -> TowerNumber | Difference:
    """What papers print of a number. Their attackers know the hand-written prompt."""
    s, spec = b.setup.towers, parse_attack(metric.attack) if metric.attack else None
    if metric.protocol in ("untuned", "transfer"):
        return Difference(None, "no source has this attacker")
    return tower_number(
        TowerPlace(
            method=method,
            backbone=b.setup.column(backbone),
            train_set="none" if method == PLAIN else s.train_set,
            dataset=catalog.canonical(dataset),
            eps=f"{spec.eps:g}" if spec else "",
            attack=paper_attack(spec) if spec else "",
            protocol=s.protocol,
            prompt=s.prompt,
            images=str(s.subset) if s.subset else "all",
        )
    )


# --- tower x prompt x defense ---------------------------------------------------------------------------------------


def _stacks(b: Builder, backbone: str, tuned: str) -> StackTable:
    s, t = b.setup.towers, b.setup.towers.stack
    name, stacks = PUBLISHED_TOWERS.get(t.tower, t.tower), []
    for (tower, runs), method in itertools.product(((PLAIN, ""), (name, tuned)), (ZEROSHOT, _coop(b, backbone), ADVPT)):
        prompt = HAND if method == ZEROSHOT else table_name(method)
        stacks.append(Stack(tower, prompt, _defended(b, backbone, method, tower, runs)))
    text = caption(b, "tower_stacks", tower=name, source=b.setup.column(s.source), seed=b.setup.seeds[0])
    title = f"Tower x prompt x defense at test time: {b.setup.column(backbone)}, {b.setup.column(s.source)}"
    return StackTable(f"towers_{s.source}_{backbone}_stacks", title, text, tuple(stacks))


def _coop(b: Builder, backbone: str) -> str:
    """CoOp on a bank of clean images, by its own recipe where that is one."""
    own = b.values(COOP, backbone, b.setup.towers.source).get("TRAINER.COOP.CLEAN_BANK")
    return COOP if own else COOP_CLEAN


def _defended(b: Builder, backbone: str, method: str, tower: str, tuned: str) -> DefenseTable:
    """A prompt on a tower (``tuned``: the run that left it, "" for the one that was not tuned), and every defense."""
    s, t = b.setup.towers, b.setup.towers.stack
    evaluation = Evaluation(tuple(f"{t.attack}:{protocol}" for protocol in PROTOCOLS), subset=t.subset)
    about: Pairs = (("EVAL.TEST_TIME", quoted(*t.defenses)), ("EVAL.ADAPTIVE_SUBSET", str(t.some)), *t.settings)
    about += () if method == ZEROSHOT else t.prompts
    about += (("BANK.ATTACK", t.bank),) if method == ADVPT else ()
    loaded: Pairs = (("MODEL.IMAGE_WEIGHTS", f"{tuned}/{TOWER}"),) if tuned else ()
    run = b.job(
        method, s.source, backbone, b.setup.seeds[0], "stack" + (f"-{t.tower}" if tuned else ""), evaluation,
        (*about, *_settings(b, s.source)), shots=-1 if method == ZEROSHOT else t.shots, runs=loaded,
    )  # fmt: skip
    recorded = {NO_DEFENSE: "", **{name: str(parse_test_time(name)) for name in t.defenses}}
    rows = tuple(DefenseRow(name, stages, run) for name, stages in recorded.items())
    names = (tower, b.setup.column(s.source))
    return DefenseTable(f"{tower}_{method}", "", "", *names, t.attack, t.subset, t.some, rows)
