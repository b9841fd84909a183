"""The catalogue: look-up by name and alias, templates, and names of data of one's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from advpt.data import catalog
from advpt.errors import ConfigError


@pytest.mark.parametrize("name", ["pets", "oxford_pets", "OxfordPets"])
def test_registry_name_and_aliases_find_the_same_entry(name: str) -> None:
    assert catalog.get(name).name == "OxfordPets"
    assert catalog.get(name).config == "pets"


def test_unknown_name_gets_the_nearest_match_and_the_list() -> None:
    with pytest.raises(ConfigError, match=r"unknown data set 'flower'\. Did you mean 'flowers'\? Known: .*dtd"):
        catalog.get("flower")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pets", "a photo of a {}, a type of pet."),
        ("OxfordFlowers", "a photo of a {}, a type of flower."),
        ("food101", "a photo of {}, a type of food."),
        ("sun397", "a photo of a {}."),
        ("dtd", "{} texture."),
        ("eurosat", "a centered satellite photo of {}."),
        ("ucf101", "a photo of a person doing {}."),
        ("imagenet_a", "a photo of a {}."),
        ("fgvc_aircraft", "a photo of a {}, a type of aircraft."),
        ("digits", "a photo of the digit {}."),
        ("SomebodysOwn", "a photo of a {}."),
    ],
)
def test_templates_are_those_of_coop(name: str, expected: str) -> None:
    assert catalog.template(name) == expected


def test_ensemble_adds_the_own_template_but_for_imagenet_and_never_twice() -> None:
    assert catalog.ensemble("imagenet") == catalog.ENSEMBLE == catalog.ensemble("ImageNet")
    assert len(catalog.ENSEMBLE) == 7
    for _ in range(2):
        assert catalog.ensemble("dtd") == (*catalog.ENSEMBLE, "{} texture.")
    assert catalog.ensemble("imagenetv2") == (*catalog.ENSEMBLE, "a photo of a {}.")


def settings(root: Path, name: str = "ImageFolder", **more: str) -> SimpleNamespace:
    return SimpleNamespace(NAME=name, ROOT=str(root), **more)


def test_data_of_ones_own_have_the_name_of_their_folder(tmp_path: Path) -> None:
    for folder in ("animals/train", "data/image_folder/train", "a b: c/train"):
        (tmp_path / folder).mkdir(parents=True)
    assert catalog.title(settings(tmp_path / "animals")) == "animals"
    assert catalog.title(settings(tmp_path, FOLDER="animals")) == "animals"
    assert catalog.title(settings(tmp_path / "data")) == "ImageFolder", "as ever, where they lie in the usual folder"
    assert catalog.title(settings(tmp_path / "a b: c")) == "a b- c"
    assert catalog.title(settings(tmp_path / "animals", TITLE="My animals")) == "My animals"
    assert catalog.title(settings(tmp_path / "animals", "OxfordPets", TITLE="")) == "OxfordPets"
    assert catalog.bank_name(settings(tmp_path / "animals", TITLE="")) == "ImageFolder", "banks of before are found"
    assert catalog.bank_name(settings(tmp_path / "animals", TITLE="mine")) == "mine"
    for odd in ("../x", "a/b", ".", " a", "a\n"):
        with pytest.raises(ConfigError, match=r"DATASET\.TITLE is"):
            catalog.title(settings(tmp_path, TITLE=odd))
