"""The manifest of a prepared set: what it says, and what it notices."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from advpt.data import manifest
from advpt.data.prepare import prepare
from tests.helpers.prepare import (
    EVERY,
    Prepared,
    Server,
    asked_for,
    check,
    options,
    picture,
    small,
    tarred,
)


def test_an_image_that_was_exchanged_shows_in_its_folder(pets: Prepared) -> None:
    (pets[1] / "images" / "pug_0.jpg").write_bytes(picture() + b"more")
    assert "images has 12 images with" in check(pets)[0]


def test_a_damaged_manifest_is_told(pets: Prepared) -> None:
    (pets[1] / manifest.NAME).write_text("{")
    assert "is not valid JSON" in check(pets)[0]
    (pets[1] / manifest.NAME).write_text("[]")
    assert "is not a manifest of format 1" in check(pets)[0]


def test_extra_images_of_a_verified_archive_are_no_difference(server: Server, tmp_path: Path) -> None:
    made = small("Food101", server)
    names = [f"{folder}/{i}.jpg" for folder in ("ramen", "apple_pie") for i in range(6)]
    names += [f"ramen/more_{i}.jpg" for i in range(3)]
    data = tarred({f"food-101/images/{name}": picture() for name in names})
    url = server.put("url/food-101.tar.gz", data)
    source = dataclasses.replace(made.facts.sources[0], address=url, md5=hashlib.md5(data).hexdigest())
    facts = dataclasses.replace(made.facts, sources=(source, *made.facts.sources[1:]))
    report = prepare(facts, tmp_path, options())
    assert len(report.extra) == 3
    assert check((facts, tmp_path / "food-101")) == []
    (tmp_path / "food-101" / "images" / "ramen" / "mine.jpg").write_bytes(picture())
    assert "4 extra, in no list" in check((facts, tmp_path / "food-101"))[0]


@pytest.mark.parametrize("name", EVERY)
def test_the_manifest_names_sources_hashes_counts_and_date(name: str, server: Server, tmp_path: Path) -> None:
    made = small(name, server)
    prepare(made.facts, tmp_path, asked_for(made, tmp_path / "mine"))
    record = manifest.manifest(tmp_path / made.facts.folder)
    assert record is not None
    assert record["dataset"] == name
    assert record["counts"] == dict(zip(("train", "val", "test"), made.facts.counts))
    assert record["classes"] == made.facts.classes
    assert record["date"][:2] == "20"
    assert record["versions"].keys() >= {"advpt", "python"}
    images = [entry for entry in record["sources"] if entry["what"] == "images"]
    assert [entry["file"] for entry in images] == [n for n in made.archives if "devkit" not in n]
    verified = {s.filename for s in made.facts.sources if s.md5 or s.sha256}
    assert {entry["file"] for entry in record["sources"] if entry["checked"]} >= verified
    assert str(tmp_path) not in (tmp_path / made.facts.folder / manifest.NAME).read_text()
