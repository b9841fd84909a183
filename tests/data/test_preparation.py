"""The steps into the layout of a set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from advpt.data import zero_shot
from advpt.data.prepare import prepare
from tests.helpers.prepare import (
    Server,
    image_bytes,
    options,
    small,
)


def test_a_split_alone_is_fetched_when_the_images_are_there(server: Server, tmp_path: Path) -> None:
    made = small("EuroSAT", server)
    for path, data in image_bytes(made).items():
        target = tmp_path / "eurosat" / "2750" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    assert prepare(made.facts, tmp_path, options()).ok
    assert server.requests == [("/github/split_zhou_EuroSAT.json", "")]


def test_a_random_split_that_coop_saved_under_the_official_name_is_set_aside(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    prepare(made.facts, tmp_path, options())
    name = "split_zhou_OxfordPets.json"
    other = made.split.replace(b"pug_0", b"pug_X").replace(b"pug_5", b"pug_0").replace(b"pug_X", b"pug_5")
    (tmp_path / "oxford_pets" / name).write_bytes(other)
    prepare(made.facts, tmp_path, options())
    assert (tmp_path / "oxford_pets" / name).read_bytes() == made.split
    assert (tmp_path / "oxford_pets" / "split_zhou_OxfordPets.not-official.json").read_bytes() == other


def test_a_split_of_another_text_but_the_same_content_is_accepted(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    server.put("github/split_zhou_OxfordPets.json", made.split.replace(b"    ", b" "))
    sized = tuple(dataclasses.replace(s, size=0) if s.what == "split" else s for s in made.facts.sources)
    assert made.facts.split is not None
    facts = dataclasses.replace(made.facts, sources=sized)
    assert prepare(facts, tmp_path, options()).ok


@pytest.mark.parametrize("name", ["Food101", "DescribableTextures"])
def test_the_list_of_another_protocol_is_kept_from_an_archive_or_a_folder(
    server: Server, tmp_path: Path, name: str
) -> None:
    made, file = small(name, server), zero_shot.table()[name].file
    assert prepare(made.facts, tmp_path, options()).ok
    kept = tmp_path / made.facts.folder / file
    assert kept.read_text().count("\n") in (1, 2)
    kept.write_text("the user's\n")
    other = tmp_path / "other"
    (tmp_path / made.facts.folder).rename(tmp_path / "mine")
    assert prepare(made.facts, other, options(origin=tmp_path / "mine")).ok
    assert (other / made.facts.folder / file).read_text() == "the user's\n"
    (tmp_path / "mine" / file).write_text("newer\n")
    next((other / made.facts.folder / made.facts.image_dir).rglob("*.jpg")).unlink()
    prepare(made.facts, other, options(origin=tmp_path / "mine"))
    assert (other / made.facts.folder / file).read_text() == "the user's\n", "what is there stays"
