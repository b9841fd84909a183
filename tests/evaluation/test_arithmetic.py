"""Numbers of records that follow from others of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from advpt.attacks import parse
from advpt.evaluation import arithmetic
from advpt.evaluation.evaluator import WORST_CASE, contradictions
from advpt.evaluation.record import (
    Accuracy,
    AttackFacts,
    BackboneFacts,
    CleanAccuracy,
    DrawAccuracy,
    ImageFacts,
    PartAccuracy,
    Record,
    Result,
    RobustAccuracy,
)
from advpt.files import digest
from advpt.schema import from_json

CONFIG = {"SEED": 1, "TRAINER.NAME": "AdvPT", "DATASET.NUM_SHOTS": -1, "EVAL.SEED": 0, "EVAL.SUBSET": 0,
          "EVAL.ATTACKS": ["pgd1-ce@4", "pgd2-ce@4"], "EVAL.PROTOCOLS": ["static"]}  # fmt: skip
CLEAN = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0, 1, 0]).bool()
RIGHT = torch.tensor([1, 0, 1, 0, 1, 0, 0, 0, 1, 0]).bool()
PERTURBED = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0, 1, 1]).bool()
PARTS = (
    PartAccuracy(name="static", attack="pgd1-ce@4", n=10, correct=6, accuracy=60.0),
    PartAccuracy(name="own", attack="pgd1-ce@4", n=10, correct=5, accuracy=50.0),
    PartAccuracy(name="left", attack="square9@4", n=5, correct=4, accuracy=80.0, left=True),
    PartAccuracy(name="last", attack="square9@4", n=4, correct=4, accuracy=100.0, left=True),
)


def attack(text: str = "pgd1-ce@4", **fields: Any) -> AttackFacts:
    spec = parse(text)
    own = {"spec": spec.label, "asked": spec.label, "seed": 0}
    return dataclasses.replace(from_json(AttackFacts, spec.build().parameters() | own), **fields)


def record(right: torch.Tensor = RIGHT, text: str = "pgd1-ce@4", path: str = "", **fields: Any) -> Record:
    """A sound record of ten images under a static attack; ``fields``: of its result."""
    robust = RobustAccuracy.of(
        right,
        bank="b",
        untouched=20.0,
        on_perturbed=dataclasses.replace(Accuracy.of(right[PERTURBED]), outcome=None),
        lost=100 * float((CLEAN & ~right).float().mean()),
        largest_linf=4.0,
    )
    result = Result(
        dataset="Digits", trainer="AdvPT", seed=1, config=CONFIG, config_digest=digest(CONFIG), split="test",
        backbone=BackboneFacts(name="DemoCLIP"), images=ImageFacts(n=10, digest="d"), protocol="static",
        clean=CleanAccuracy.of(CLEAN, bank="c"), robust=robust, attack=attack(text), flags=("images partly clean",),
    )  # fmt: skip
    made = Record(dataclasses.replace(result, **fields))
    return dataclasses.replace(made, path=Path(path or f"{made.name}.json"))


def names(made: Record, *siblings: Record) -> set[str]:
    return {each.name or str(each)[:14] for each in arithmetic.check(made, siblings)}


def with_robust(**fields: Any) -> Record:
    return record(robust=dataclasses.replace(record().result.robust, **fields))


def test_a_sound_record_has_no_finding() -> None:
    assert not names(record())
    assert not names(record(), record(), record(text="pgd2-ce@4"))
    two = dataclasses.replace(CleanAccuracy.of(CLEAN), defense_seeds=())
    assert not names(record(clean=two))


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"accuracy": 50.0}, "robust.accuracy"),
        ({"correct": 5}, "robust.correct"),
        ({"interval95": (0.0, 50.0)}, "robust.interval95"),
        ({"outcome": record(~RIGHT).result.robust.outcome}, "robust.accuracy"),
        ({"deviation": 1.0}, "robust.deviation"),
        ({"lost": 10.0}, "robust.lost"),
        ({"untouched": 10.0}, "robust.on_perturbed.n"),
        ({"untouched": 12.0}, "robust.untouched"),
        ({"on_perturbed": Accuracy.of(torch.ones(8).bool())}, "robust.on_perturbed.correct"),
        ({"largest_linf": 4.5}, "robust.largest_linf"),
        ({"largest_linf": 0.0}, "robust.largest_linf"),
        ({"stages": {"apgd-ce": 3, "none": 6}}, "robust.stages"),
    ],
)
def test_numbers_of_the_attacked_images(fields: dict[str, Any], wrong: str) -> None:
    assert wrong in names(with_robust(**fields))


def test_means_over_draws() -> None:
    draws = (DrawAccuracy(seed=0, accuracy=70.0, bank="c"), DrawAccuracy(seed=1, accuracy=50.0, bank="e"))
    first = CleanAccuracy.of(CLEAN, bank="c")
    interval = CleanAccuracy.of(torch.tensor([1] * 6 + [0] * 4).bool()).interval95
    mean = {"accuracy": 60.0, "correct": 6, "interval95": interval, "deviation": 200**0.5, "defense_seeds": draws}
    sound = dataclasses.replace(first, **mean)
    assert not names(record(clean=sound))
    for field, value in {"accuracy": 70.0, "correct": 7, "deviation": 1.0}.items():
        assert f"clean.{field}" in names(record(clean=dataclasses.replace(sound, **{field: value})))
    others = {"accuracy": 55.0, "seed": 0, "bank": "c"}
    for field in ("accuracy", "bank"):
        changed = dataclasses.replace(draws[0], **{field: "x" if field == "bank" else others[field]})
        differing = names(record(clean=dataclasses.replace(sound, defense_seeds=(changed, draws[1]))))
        assert f"clean.defense_seeds[0].{field}" in differing


def parts(**changes: Any) -> Record:
    """A record of several attacks; ``changes``: of the part of that name."""
    made = tuple(dataclasses.replace(each, **changes.get(each.name, {})) for each in PARTS)
    robust = dataclasses.replace(record().result.robust, parts=made)
    return record(robust=robust, note="per image the worst of 4 attacks")


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, ""),
        ({"own": {"accuracy": 40.0}}, "robust.parts[1].accuracy"),
        ({"own": {"n": 9, "accuracy": 500 / 9}}, "robust.parts[1].n"),
        ({"own": {"correct": 4, "accuracy": 40.0}}, "robust.parts[2].n"),  # no more than are left
        ({"last": {"correct": 3, "accuracy": 75.0}}, "robust.correct"),
        ({"left": {"n": 6, "accuracy": 400 / 6}}, "robust.parts[2].n"),
        ({"last": {"n": 3, "correct": 3, "accuracy": 100.0}}, "robust.parts[3].n"),
    ],
)
def test_parts_fit_each_other_and_the_outcome(changes: dict[str, Any], wrong: str) -> None:
    assert wrong in names(parts(**changes)) if wrong else not names(parts(**changes))


def test_words_settings_and_the_attack() -> None:
    assert names(record(flags=())) == {"flags"}
    assert names(parts() and record(robust=parts().result.robust)) == {"note"}
    assert names(record(config_digest="0")) == {"config_digest"}
    assert names(record(seed=2)) == {"seed"} and names(record(trainer="CoOp")) == {"trainer"}
    assert names(record(images=ImageFacts(n=9, digest="d"))) == {"images.n"}
    assert names(record(images=ImageFacts(n=10, digest="d", subset=20))) == {"images.subset"}
    assert names(record(attack=attack(seed=3))) == {"attack.seed"}
    assert names(record(attack=attack(eps=8.0))) >= {"attack.eps"}
    assert names(record(path="test_static_other.json")) == {"its file's name"}
    assert names(record(text="pgd1-ce@2", robust=with_robust(largest_linf=2.0).result.robust)) == {"attack.asked"}
    assert names(record(protocol="adaptive")) == {"attack.asked"}
    same = record(right=CLEAN)
    sentence = contradictions(same.result.clean, same.result.robust, "static pgd1-ce@4/a4")
    assert sentence and names(same) == {"warnings"} and not names(record(right=CLEAN, warnings=tuple(sentence)))


def test_a_worst_case_is_the_worst_of_the_records_beside_it() -> None:
    other = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0, 1, 0]).bool()
    one, two = record(), record(other, "pgd2-ce@4")
    labels = (one.result.attack.spec, two.result.attack.spec)
    spec = f"{WORST_CASE}@4"
    facts = AttackFacts(name=WORST_CASE, objective="any", norm="linf", eps=4.0, spec=spec, asked=spec, attacks=labels)
    sound = record(RIGHT & other, attack=facts)
    assert not names(sound, one, two) and not names(sound)
    assert names(record(RIGHT, attack=facts), one, two) == {"robust.outcome"}
    assert names(record(attack=dataclasses.replace(facts, attacks=labels[:1])), one) == {"attack.attacks"}
    clean = CleanAccuracy.of(RIGHT)
    assert "clean.accuracy" in names(one, record(text="pgd2-ce@4", clean=clean))
    assert not names(one, record(text="pgd2-ce@4", clean=clean, protocol="adaptive"))
