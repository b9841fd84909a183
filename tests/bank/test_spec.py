"""The key of a bank: what is in it, and how two of them differ."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from advpt.attacks import parse
from advpt.bank.cache import AttackRequest
from advpt.bank.spec import differences
from advpt.bank.store import open_bank
from advpt.errors import BankMismatchError
from tests.helpers.banks import CE, FKL, classifier, make_clip


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("attack.eps", lambda lib, img: (lib.spec(AttackRequest(img, parse("pgd2-fkl@4/a5"))))),
        ("attack.steps", lambda lib, img: (lib.spec(AttackRequest(img, parse("pgd3-fkl@8/a5"))))),
        ("attack.step", lambda lib, img: (lib.spec(AttackRequest(img, parse("pgd2-fkl@8/a1"))))),
        ("attack.start", lambda lib, img: (lib.spec(AttackRequest(img, parse("pgd2-fkl@8", "released"))))),
        ("seed", lambda lib, img: (lib.spec(AttackRequest(img, FKL, None, 1)))),
        ("data.n", lambda lib, img: (lib.spec(AttackRequest(img.first(5), FKL)))),
        ("data.classnames", lambda lib, img: lib.spec(AttackRequest(dataclasses.replace(img, classnames=("x", "y", "z")), FKL))  # noqa: E501
         ),
        ("preprocessing.interpolation", lambda lib, img: lib.spec(
            AttackRequest(
                dataclasses.replace(img, preprocessing=dataclasses.replace(img.preprocessing, interpolation="nearest")),
                FKL))),
        ("preprocessing.resize", lambda lib, img: lib.spec(
            AttackRequest(
                dataclasses.replace(img, preprocessing=dataclasses.replace(img.preprocessing, resize="squash")), FKL))),
        ("attacked.image", lambda lib, img: lib.with_backbone(make_clip(1)).spec(AttackRequest(img, FKL))),
        ("chunk", lambda lib, img: dataclasses.replace(lib, chunk=5).spec(AttackRequest(img, FKL))),
        ("attacked.text", lambda lib, img: lib.spec(AttackRequest(img, CE, classifier(1)))),
    ],
)  # fmt: skip
def test_a_foreign_bank_is_refused_and_the_field_named(bank_cache, pictures, what, change):
    bank_cache.get(pictures, FKL)
    folder = bank_cache.folder(bank_cache.spec(AttackRequest(pictures, FKL)))
    other = change(bank_cache, pictures)
    assert other.key != folder.name
    shutil.copytree(folder, bank_cache.folder(other))  # somebody put a bank in the wrong place
    with pytest.raises(BankMismatchError, match="cannot be used") as caught:
        open_bank(bank_cache.folder(other), other.fields(), verify=True)
    assert f"adversarial_set.{what}: the bank has" in str(caught.value)


def test_the_prompt_is_in_the_key_only_where_the_attack_sees_it(bank_cache, pictures):
    one, two = classifier(0), classifier(1)
    assert (
        bank_cache.spec(AttackRequest(pictures, FKL, one)).key == bank_cache.spec(AttackRequest(pictures, FKL, two)).key
    )
    assert (
        bank_cache.spec(AttackRequest(pictures, CE, one)).key != bank_cache.spec(AttackRequest(pictures, CE, two)).key
    )


def test_pictures_that_are_cropped_keep_the_keys_of_before(bank_cache, pictures):
    assert "resize" not in bank_cache.spec(AttackRequest(pictures, FKL)).fields()["adversarial_set"]["preprocessing"]


def test_differences_name_nested_fields():
    lines = differences({"a": {"b": 1, "c": 2}, "d": None}, {"a": {"b": 1, "c": 3}, "d": {"e": 1}})
    assert lines == ["a.c: the bank has 2, the run asks for 3", "d: the bank has None, the run asks for {'e': 1}"]
