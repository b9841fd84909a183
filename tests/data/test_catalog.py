"""The catalogue: look-up, templates, and that its facts agree with each other and with the real split files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from advpt.data import catalog, split
from advpt.data.facts import SplitFacts
from advpt.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY / os.environ.get("ADVPT_TEST_DATA", "../shared/data")
HELD = ("OxfordPets", "OxfordFlowers", "DescribableTextures", "EuroSAT", "UCF101", "Caltech101", "StanfordCars")


@pytest.mark.parametrize("name", ["pets", "oxford_pets", "OxfordPets"])
def test_registry_name_and_aliases_find_the_same_entry(name: str) -> None:
    assert catalog.get(name).name == "OxfordPets"
    assert catalog.get(name).config == "pets"


def test_unknown_name_gets_the_nearest_match_and_the_list() -> None:
    with pytest.raises(ConfigError, match=r"unknown data set 'flower'\. Did you mean 'flowers'\? Known: .*dtd"):
        catalog.get("flower")


def test_names_aliases_and_folders_are_unique() -> None:
    entries = [catalog.get(name) for name in catalog.names()]
    keys = [key for facts in entries for key in (facts.name, *facts.aliases)]
    assert len(keys) == len(set(keys))
    assert len({facts.folder for facts in entries}) == len(entries) == 17


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


def test_every_source_has_an_address_and_well_formed_hashes() -> None:
    for facts in map(catalog.get, catalog.names()):
        marks = [*facts.sources, facts.split] if facts.split else list(facts.sources)
        for mark in marks:
            assert len(mark.md5) in (0, 32)
            assert len(mark.git_blob) in (0, 40)
            assert len(mark.sha256) in (0, 16, 64)
            assert set(mark.md5 + mark.git_blob + mark.sha256) <= set("0123456789abcdef")
        for source in facts.sources:
            assert source.address
            assert source.filename
            assert source.where == "drive" or source.address.startswith("http")


@pytest.mark.parametrize("name", HELD)
def test_facts_of_the_official_split_files(name: str) -> None:
    facts = catalog.get(name)
    assert facts.split is not None
    path = DATA / "splits" / facts.split.filename
    if not path.is_file():
        pytest.skip(f"{path} is not here; set ADVPT_TEST_DATA to the folder that has splits/")
    found, data = split.read(path)
    assert found.counts() == facts.counts
    assert len({row[1] for row in found.train}) == facts.classes
    assert len(data) == facts.split.size
    assert hashlib.md5(data, usedforsecurity=False).hexdigest() == facts.split.md5
    assert hashlib.sha256(data).hexdigest() == facts.split.sha256
    assert split.git_blob(data) == facts.split.git_blob
    assert found.digest() == facts.split.content
    assert found.as_text().encode() == data
    assert split.judge(facts, found, data, path) == split.Verdict(True)


def test_every_split_file_has_an_official_hash_on_record() -> None:
    """Without one, results on the set would always be marked as comparable with nothing."""
    without = [facts.name for facts in map(catalog.get, catalog.names()) if facts.split and not _marks(facts.split)]
    assert without == []


def _marks(official: SplitFacts) -> str:
    return official.git_blob or official.content


def test_cat_to_name_has_the_hashes_of_the_catalogue() -> None:
    path = DATA / "splits" / "cat_to_name.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here; set ADVPT_TEST_DATA to the folder that has splits/")
    for source in catalog.get("flowers").sources:
        if source.filename == path.name:
            assert split.git_blob(path.read_bytes()) == source.git_blob
            assert hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256


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
