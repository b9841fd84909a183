"""What a prepared set lacks or has too much of, by its facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.data import catalog, layout
from advpt.data.prepare import prepare, prepare_or_check
from tests.helpers.prepare import EVERY, Prepared, check, options, picture, small, user_files


def test_a_whole_set_has_nothing_to_say(pets: Prepared, sketch: Prepared) -> None:
    assert check(pets, with_decode=True) == []
    assert check(sketch, with_decode=True) == []
    row, _ = prepare_or_check(pets[0], pets[1].parent, options(), True, True)
    assert row == ["OxfordPets", "6 / 2 / 4", "2", "0", "complete, all decode"]


def test_missing_files_are_named(pets: Prepared) -> None:
    for i in (0, 5):
        (pets[1] / "images" / f"pug_{i}.jpg").unlink()
    lines = check(pets)
    assert lines[0] == f"OxfordPets in {pets[1]}: 2 missing: images/pug_0.jpg, images/pug_5.jpg"
    assert "images has 10 images" in lines[1]
    assert lines[-1].startswith("Next: delete what is damaged, then `python -m advpt prepare pets --root")
    assert layout.examine(*pets).counts == (5, 2, 3)


def test_extra_images_are_named_and_hidden_files_ignored(pets: Prepared) -> None:
    for name in ("pug_9.jpg", ".DS_Store", "._pug_0.jpg", "notes.txt", "Thumbs.db"):
        (pets[1] / "images" / name).write_bytes(picture())
    assert check(pets)[0] == f"OxfordPets in {pets[1]}: 1 extra, in no list: images/pug_9.jpg"


def test_an_altered_split_is_named_with_both_hashes(pets: Prepared) -> None:
    facts, folder = pets
    assert facts.split is not None
    path = folder / facts.split.filename
    path.write_bytes(path.read_bytes().replace(b"pug_0", b"pug_9", 1))
    text = "\n".join(check(pets))
    assert "is not the official split of OxfordPets" in text
    assert facts.split.git_blob in text
    assert "1 missing: images/pug_9.jpg" in text
    assert "split_zhou_OxfordPets.json was changed since it was prepared" in text


def test_a_split_that_is_a_web_page_or_not_there(pets: Prepared) -> None:
    path = pets[1] / "split_zhou_OxfordPets.json"
    path.write_text("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
    assert "Google Drive's 'quota exceeded' page" in check(pets)[0]
    path.unlink()
    assert "split_zhou_OxfordPets.json is missing" in check(pets)[0]


def test_class_folders_missing_empty_foreign(sketch: Prepared) -> None:
    images = sketch[1] / "images"
    folders = sorted(images.iterdir())
    for path in folders[0].iterdir():
        path.unlink()
    (images / ".hidden").mkdir()
    (images / "tmp").mkdir()
    text = "\n".join(check(sketch))
    assert "images has 6 images, expected 8" in text
    assert f"1 class folders without an image: {folders[0].name}" in text
    assert "1 extra, in no list: images/tmp/" in text
    folders[0].rmdir()
    assert "images has 3 class folders that are not the official 4" in "\n".join(check(sketch))


def test_real_class_folders_are_named_when_they_are_missing(tmp_path: Path) -> None:
    facts = catalog.get("imagenet_sketch")
    names = layout.class_folder_names(facts)
    assert len(names) == 1000
    for name in names[1:]:
        (tmp_path / "images" / name).mkdir(parents=True)
    report = layout.examine(facts, tmp_path)
    assert report.missing == (f"images/{names[0]}/",)
    assert "images has 0 images, expected 50,889" in report.problems
    assert len(layout.class_folder_names(catalog.get("imagenetv2"))) == 1000
    assert layout.class_folder_names(catalog.get("imagenet_a")) == []


def test_uneven_classes_of_v2_are_named(tmp_path: Path) -> None:
    made = small("ImageNetV2")
    prepare(made.facts, tmp_path, options(archives=user_files(made, tmp_path / "mine")))
    folder = tmp_path / "imagenetv2"
    images = folder / made.facts.parts[0].target
    (images / "3" / "0.jpeg").rename(images / "2" / "5.jpeg")
    assert "2 classes have not 2 images: 2 (3), 3 (1)" in check((made.facts, folder))[0]


@pytest.mark.parametrize("name", EVERY)
def test_every_set_says_what_is_missing(name: str, tmp_path: Path) -> None:
    facts = catalog.get(name)
    assert check((facts, tmp_path / facts.folder)) != []
    (tmp_path / facts.folder / facts.parts[0].target).mkdir(parents=True)
    assert check((facts, tmp_path / facts.folder)) != []
