"""Records of some rows and threats made anew, and no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from advpt.bank.cache import BankCache
from advpt.evaluation.evaluator import evaluate, planned_evaluation
from advpt.evaluation.identities import Named
from advpt.evaluation.measure import Prompts
from advpt.evaluation.record import Record, RunFacts
from advpt.evaluation.session import Subject
from advpt.evaluation.verify import Options, Verification, row_of, threats_of
from advpt.settings import EvalSettings
from tests.helpers.banks import classifier, make_clip, make_images

ATTACKS = ("pgd2-ce@8", "pgd1-ce@8", "pgd1-ce@4")
SETTINGS = EvalSettings.from_flat(
    {"EVAL.ATTACKS": ATTACKS, "EVAL.PROTOCOLS": ("transfer", "adaptive"), "EVAL.DEFENSES": ("noise", "low-pass"),
     "EVAL.DEFENSE_SEEDS": 2, "EVAL.EOT": 1}
)  # fmt: skip
FACTS = RunFacts(dataset="tiny", trainer="AdvPT", seed=1, config={})


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """A function of the folder of the banks: what is evaluated, always the same."""
    images = make_images(tmp_path_factory.mktemp("images"), 6, split="test")

    def made(banks: str) -> Subject:
        clip, folder = make_clip(), tmp_path_factory.mktemp(banks)
        prompts = Prompts(classifier(1), classifier(2), ("a {}.",))
        return Subject(prompts, images, BankCache(folder, clip, lambda: clip, chunk=2), SETTINGS, FACTS)

    return made


def fields(subject: Subject) -> dict:
    names = [each.name for each in dataclasses.fields(subject) if each.name != "learned"]
    return {name: getattr(subject, name) for name in names}


@pytest.fixture(scope="module")
def records(subject: Callable[[str], Subject]) -> dict[str, Record]:
    made = evaluate(**fields(subject("then")))
    return {each.name: dataclasses.replace(each, path=Path(f"{each.name}.json")) for each in made}


def test_all_records_of_an_evaluation_agree(subject, records):
    verdicts = Verification(subject("now"), list(records.values()), Options(), Named()).run()
    assert len(verdicts) == 24 and {each.status for each in verdicts} == {"agrees"}, verdicts


def test_one_record_costs_its_own_attack_on_its_own_row(subject, records):
    now, kept = subject("now"), list[tuple[Record, Record]]()
    one = records["test_adaptive_pgd1-ce@4-a4_low-pass-gaussian"]
    options = Options(keep=lambda old, new: kept.append((old, new)))
    (verdict,) = Verification(now, [one], options, Named()).run()
    assert verdict.status == "agrees" and len(now.bank_cache.state.built) == 2  # clean and attacked, behind one defense
    assert [(old.id, new.id) for old, new in kept] == [(one.id, one.id)]


def test_records_of_two_rows_and_two_attacks_cost_two_attacks(subject, records):
    now = subject("now")
    names = ("test_transfer_pgd1-ce@4-a4_low-pass-gaussian", "test_transfer_pgd1-ce@8-a8")
    verdicts = Verification(now, [records[name] for name in names], Options(), Named()).run()
    assert [each.status for each in verdicts] == ["agrees"] * 2 and len(now.bank_cache.state.built) == 4


def test_a_worst_case_needs_all_attacks_of_its_budget(subject, records):
    now = subject("now")
    (verdict,) = Verification(now, [records["test_transfer_worst-case@8"]], Options(), Named()).run()
    assert verdict.status == "agrees" and len(now.bank_cache.state.built) == 3


def test_rows_and_threats_of_records(subject, records):
    _, rows, asked = planned_evaluation(**fields(subject("now")))
    defended = records["test_transfer_pgd1-ce@4-a4_noise-uniform"].result
    place = row_of(defended, rows)
    assert rows[place].names == ("noise:uniform",)
    assert [each.label for each in threats_of(defended, rows[place], asked)] == ["transfer pgd1-ce@4/a4"]
    assert row_of(dataclasses.replace(defended, defenses=("blur",)), rows) is None
    other = dataclasses.replace(defended, attack=dataclasses.replace(defended.attack, asked="pgd1-ce@2"))
    assert threats_of(other, rows[place], asked) == []
    (verdict,) = Verification(
        subject("b"), [Record(dataclasses.replace(defended, defenses=("blur",)))], Options(), Named()
    ).run()
    assert verdict.status == "differs" and "has no results behind blur" in str(verdict.findings[-1])


def test_other_weights_are_found_before_any_attack(subject, records):
    now = subject("now")
    clip = make_clip(1)
    other = dataclasses.replace(now, bank_cache=BankCache(now.bank_cache.root, clip, lambda: clip, chunk=2))
    (verdict,) = Verification(other, [records["test_transfer_pgd1-ce@4-a4"]], Options(), Named()).run()
    assert verdict.status == "differs" and not other.bank_cache.state.built
    assert {"backbone.image", "backbone.text"} <= {found.name for found in verdict.findings}


def test_the_first_images_are_whole_batches(subject, records):
    now = subject("now")
    (verdict,) = Verification(now, [records["test_transfer_pgd1-ce@4-a4"]], Options(images=3), Named()).run()
    assert (verdict.images, verdict.of, verdict.status) == (4, 6, "agrees")
