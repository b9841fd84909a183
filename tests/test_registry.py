"""Registries of attacks and defenses: classes by name."""

from __future__ import annotations

import pytest

from advpt.attacks import ATTACKS
from advpt.defenses import DEFENSES
from advpt.errors import ConfigError
from advpt.registry import Registry


class Blur:
    name = "blur"


class Crop:
    name = "crop"


def registry() -> Registry:
    made: Registry = Registry("defense")
    made.add(Crop)
    made.add(Blur)
    return made


def test_names_come_in_alphabetical_order_and_give_their_classes() -> None:
    assert list(registry()) == ["blur", "crop"]
    assert registry().get("crop") is Crop


def test_adding_returns_the_class_so_that_it_can_be_a_decorator() -> None:
    assert Registry("attack").add(Blur) is Blur


def test_a_name_is_given_once() -> None:
    with pytest.raises(ConfigError, match="two defenses are called 'blur'; rename one"):
        registry().add(Blur)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown defense 'blurr'. Did you mean 'blur'"):
        registry().get("blurr")


def test_attacks_and_defenses_are_two_registries() -> None:
    assert "pgd" in ATTACKS and "rescale" in DEFENSES and not set(ATTACKS) & set(DEFENSES)
    with pytest.raises(ConfigError, match="unknown attack 'rescale'"):
        ATTACKS.get("rescale")


def test_a_class_can_be_forgotten_and_defined_again() -> None:
    made = registry()
    made.remove("blur")
    assert list(made) == ["crop"]
    assert made.add(Blur) is Blur
    with pytest.raises(ConfigError, match="unknown defense 'blurr'"):
        made.remove("blurr")
