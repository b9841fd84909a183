"""The class names that ship: which folders they are of, their order and their rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.data import catalog, classnames, imagenet, layout


def test_shipped_class_folders_are_the_official_ones() -> None:
    shipped = [facts for facts in map(catalog.get, catalog.names()) if facts.classnames]
    assert {facts.config for facts in shipped} == {"cifar10", "cifar100", "stl10", "tiny_imagenet", "caltech256"}
    for facts in shipped:
        names = classnames.shipped(facts)
        assert len(names) == facts.classes and len(set(names.values())) == facts.classes
        assert list(names) == sorted(names), "labels follow the sorted folders"
        assert imagenet.folders_digest(list(names)) == facts.class_folders
        assert all(name == name.strip() and name for name in names.values())
        assert layout.class_folder_names(facts) == list(names)
    assert "MIT License" in (Path(catalog.__file__).parent / "tiny_imagenet_classnames.LICENSE.txt").read_text()


def test_names_of_caltech_256_follow_from_its_folders() -> None:
    for folder, name in classnames.shipped(catalog.get("caltech256")).items():
        assert name == folder[4:].replace("-101", "").replace("-", " ").lower()


def test_other_sets_have_imagenets_names() -> None:
    assert classnames.shipped(catalog.get("imagenet_a")) == imagenet.shipped_names()


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("CIFAR10", {0: "airplane", 1: "automobile", 9: "truck"}),
        ("CIFAR100", {0: "apple", 1: "aquarium_fish", 99: "worm"}),
        ("STL10", {0: "airplane", 2: "car", 7: "monkey"}),
        ("TinyImageNet", {0: "goldfish", 199: "acorn"}),
        ("Caltech256", {0: "ak47", 231: "t shirt", 250: "airplanes", 256: "clutter"}),
    ],
)
def test_class_names_and_their_order(name: str, some: dict[int, str]) -> None:
    names = list(classnames.shipped(catalog.get(name)).values())
    assert {label: names[label] for label in some} == some
