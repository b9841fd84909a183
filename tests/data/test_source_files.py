"""The files a set is prepared from: those that the user gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.data import manifest
from advpt.data.prepare import prepare
from tests.helpers.prepare import (
    Server,
    everything,
    image_bytes,
    load,
    options,
    small,
    user_files,
    zipped,
)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    ("name", "layout_of_it"),
    [
        ("OxfordPets", "oxford-iiit-pet/images"),
        ("OxfordPets", "images"),
        ("OxfordPets", "oxford_pets/images"),
        ("OxfordFlowers", "flowers-102/jpg"),
        ("DescribableTextures", "dtd/dtd/images"),
        ("EuroSAT", "eurosat/2750"),
        ("SUN397", "SUN397"),
    ],
)
def test_from_a_folder_in_another_layout(
    name: str, layout_of_it: str, link: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small(name, server)
    theirs = tmp_path / "theirs"
    for path, data in image_bytes(made).items():
        target = theirs / layout_of_it / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    before = everything(theirs)
    prepare(made.facts, tmp_path / "data", options(origin=theirs, link=link))
    load(made, tmp_path / "data", monkeypatch)
    images = tmp_path / "data" / made.facts.folder / made.facts.parts[0].target
    assert images.is_symlink() is link
    assert everything(theirs) == before
    assert server.requests == [(f"/github/{made.facts.split.filename}", "")]  # type: ignore[union-attr]


def test_from_the_images_folder_itself_and_from_a_folder_of_archives(server: Server, tmp_path: Path) -> None:
    made = small("ImageNetA", server)
    for wnid in ("a", "b"):
        (tmp_path / "data" / wnid).mkdir(parents=True)
    user_files(made, tmp_path / "mine")
    assert prepare(made.facts, tmp_path / "one", options(origin=tmp_path / "mine")).ok
    images = tmp_path / "one" / made.facts.folder / "imagenet-a"
    assert prepare(made.facts, tmp_path / "two", options(origin=images, link=True)).ok
    assert server.requests == []


def test_a_mirrors_zip_with_everything_in_it_needs_no_network(server: Server, tmp_path: Path) -> None:
    made = small("DescribableTextures")
    inside = {f"dtd/images/{path}": data for path, data in image_bytes(made).items()}
    mirror = tmp_path / "dtd.zip"
    mirror.write_bytes(zipped({**inside, f"dtd/{made.facts.split.filename}": made.split}))  # type: ignore[union-attr]
    assert prepare(made.facts, tmp_path / "data", options(archives=(mirror,), offline=True)).ok
    record = manifest.manifest(tmp_path / "data" / "dtd")
    assert record is not None
    assert [entry["checked"] for entry in record["sources"] if entry["file"] == "dtd.zip"] == [[]]


def test_archives_in_the_data_sets_own_folder_are_found(tmp_path: Path) -> None:
    made = small("ImageNet")
    kept = user_files(made, tmp_path / "imagenet" / "images")
    assert prepare(made.facts, tmp_path, options()).ok
    assert all(path.is_file() for path in kept)
