"""The steps into the layout of a set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

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
