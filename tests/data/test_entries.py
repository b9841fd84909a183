"""The facts of every data set agree with each other and with the real split files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from advpt.data import catalog, split
from advpt.data.facts import SplitFacts

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY / os.environ.get("ADVPT_TEST_DATA", "../shared/data")
HELD = ("OxfordPets", "OxfordFlowers", "DescribableTextures", "EuroSAT", "UCF101", "Caltech101", "StanfordCars")


def test_names_aliases_and_folders_are_unique() -> None:
    entries = [catalog.get(name) for name in catalog.names()]
    keys = [key for facts in entries for key in (facts.name, *facts.aliases)]
    assert len(keys) == len(set(keys))
    assert len({facts.folder for facts in entries}) == len(entries)


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
