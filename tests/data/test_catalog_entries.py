"""The facts of every data set agree with each other and with the real split files."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from advpt.data import catalog, split
from advpt.data.facts import DatasetFacts, SplitFacts
from advpt.schema import FieldError, to_json

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY / os.environ.get("ADVPT_TEST_DATA", "../shared/data")
HELD = ("OxfordPets", "OxfordFlowers", "DescribableTextures", "EuroSAT", "UCF101", "Caltech101", "StanfordCars")


def test_names_aliases_and_folders_are_unique() -> None:
    entries = [catalog.get(name) for name in catalog.names()]
    keys = [key for facts in entries for key in (facts.name, *facts.aliases)]
    assert len(keys) == len(set(keys))
    assert len({facts.folder for facts in entries}) == len(entries)


def test_every_name_in_the_file_is_a_field() -> None:
    """What is misspelt would be passed over."""
    written = tomllib.loads(Path(catalog.__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    assert list(written) == list(catalog.names())
    for name, table in written.items():
        assert _beyond(table, to_json(catalog.get(name))) == []


def _beyond(written: Any, read: Any) -> list[str]:
    """Names and values of the file that the facts have not."""
    if isinstance(written, dict):
        return [f"{key}: {odd}" for key, value in written.items() for odd in _beyond(value, read.get(key))]
    if isinstance(written, list):  # the facts may have more: copies of the split file
        return [odd for one, other in zip(written, read) for odd in _beyond(one, other)]
    return [] if written == read else [f"{written!r} is read as {read!r}"]


def test_a_value_of_another_kind_is_refused_by_its_name(tmp_path: Path) -> None:
    text = '[Birds]\naliases = ["birds"]\nfolder = "birds"\nimage_dir = ""\nclasses = 2\ncounts = [4, 0, 2]\n'
    source = '[[Birds.sources]]\nwhat = "images"\nwhere = "ftp"\naddress = "x"\nfilename = "x.zip"\n'
    (tmp_path / "good.toml").write_text(text)
    assert catalog.read(tmp_path / "good.toml") == {
        "Birds": DatasetFacts(
            name="Birds", aliases=("birds",), folder="birds", image_dir="", classes=2, counts=(4, 0, 2)
        )
    }
    for bad, sentence in (
        (text.replace("[4, 0, 2]", "[4, 0]"), r"Birds\.counts is .*, expected a list of 3"),
        (text.replace("classes = 2", 'classes = "2"'), r"Birds\.classes is '2', expected a whole number"),
        (text + source, r"Birds\.sources\[0\]\.where is 'ftp', expected 'url', 'drive', 'github' or 'manual'"),
    ):
        (tmp_path / "bad.toml").write_text(bad)
        with pytest.raises(FieldError, match=sentence):
            catalog.read(tmp_path / "bad.toml")


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
    assert split.unofficial_warning(facts, found, data, path) == ""


def test_native_sizes() -> None:
    native = {facts.config: facts.native for facts in map(catalog.get, catalog.names()) if facts.native}
    assert native == {"cifar10": 32, "cifar100": 32, "stl10": 96, "tiny_imagenet": 64}


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
