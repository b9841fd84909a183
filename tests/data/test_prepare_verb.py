"""``python -m advpt prepare``: checks, bad images, manual steps, exit codes."""

from __future__ import annotations

import dataclasses
import hashlib
import shlex
from pathlib import Path

import pytest

from advpt.cli import main
from advpt.data import catalog, decode, layout, manifest, prepare_verb
from advpt.data.facts import DatasetFacts
from advpt.data.prepare import prepare
from tests.helpers.prepare import EVERY, Server, network, options, picture, small, tarred, user_files

Prepared = tuple[DatasetFacts, Path]


@pytest.fixture
def pets(server: Server, tmp_path: Path) -> Prepared:
    made = small("OxfordPets", server)
    prepare(made.facts, tmp_path, options())
    return made.facts, tmp_path / "oxford_pets"


@pytest.fixture
def sketch(tmp_path: Path) -> Prepared:
    made = small("ImageNetSketch")
    prepare(made.facts, tmp_path, options(archives=user_files(made, tmp_path / "mine")))
    return made.facts, tmp_path / "imagenet-sketch"


def check(found: Prepared, with_decode: bool = False) -> list[str]:
    """What a check of the data set says; [] if all is well."""
    facts, folder = found
    return prepare_verb.one(facts, folder.parent, options(network=network()), True, with_decode)[1]


def test_a_whole_set_has_nothing_to_say(pets: Prepared, sketch: Prepared) -> None:
    assert check(pets, with_decode=True) == []
    assert check(sketch, with_decode=True) == []
    row, _ = prepare_verb.one(pets[0], pets[1].parent, options(), True, True)
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


def test_an_image_that_was_exchanged_shows_in_its_folder(pets: Prepared) -> None:
    (pets[1] / "images" / "pug_0.jpg").write_bytes(picture() + b"more")
    assert "images has 12 images with" in check(pets)[0]


def test_a_damaged_manifest_is_told(pets: Prepared) -> None:
    (pets[1] / manifest.NAME).write_text("{")
    assert "is not valid JSON" in check(pets)[0]
    (pets[1] / manifest.NAME).write_text("[]")
    assert "is not a manifest of format 1" in check(pets)[0]


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
    names = layout._class_names(facts)
    assert len(names) == 1000
    for name in names[1:]:
        (tmp_path / "images" / name).mkdir(parents=True)
    report = layout.examine(facts, tmp_path)
    assert report.missing == (f"images/{names[0]}/",)
    assert "images has 0 images, expected 50,889" in report.problems
    assert len(layout._class_names(catalog.get("imagenetv2"))) == 1000
    assert layout._class_names(catalog.get("imagenet_a")) == []


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


# --- decode ---------------------------------------------------------------------------------------------------------


def test_bad_images_are_listed_with_the_reason(pets: Prepared) -> None:
    images = pets[1] / "images"
    noise = picture(1, "PNG")
    (images / "pug_0.jpg").write_bytes(b"")
    (images / "pug_1.jpg").write_bytes(b"<!DOCTYPE html><title>Sorry</title>")
    (images / "pug_2.jpg").write_bytes(picture()[:-200])
    (images / "pug_3.jpg").write_bytes(noise)
    (images / "pug_4.jpg").write_bytes(noise[:50])
    (images / "pug_5.jpg").write_bytes(b"text")
    found = dict(decode.bad_images(pets[1], decode.images(*pets), workers=2))
    assert set(found) == {f"images/pug_{i}.jpg" for i in (0, 1, 2, 4, 5)}, "a PNG called .jpg is fine"
    assert found["images/pug_0.jpg"] == "empty (0 bytes)"
    assert found["images/pug_1.jpg"] == "a web page, not an image"
    assert "truncated" in found["images/pug_2.jpg"].lower()
    assert "cannot identify image file" in found["images/pug_5.jpg"]
    lines = check(pets, with_decode=True)
    assert f"OxfordPets: {images}/pug_1.jpg: a web page, not an image" in lines


def test_images_of_class_folders_are_opened_too(sketch: Prepared) -> None:
    image = next((sketch[1] / "images").rglob("*.jpeg"))
    image.write_bytes(image.read_bytes()[:100])
    assert len(decode.bad_images(*_paths(sketch))) == 1


def _paths(found: Prepared) -> tuple[Path, list[str]]:
    return found[1], decode.images(*found)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [facts.config for facts in map(catalog.get, catalog.names())])
def test_offline_prints_the_steps_of_every_set(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", name, "--root", str(tmp_path / "my data"), "--offline"]) == 0
    text = capsys.readouterr().out
    facts = catalog.get(name)
    for part in facts.parts:
        assert name == "digits" or str(tmp_path / "my data" / facts.folder / part.target) in text
    for source in facts.sources:
        assert source.optional or (source.filename in text and source.address in text)
        assert source.optional or not source.md5 or source.md5 in text or source.sha256 in text
    assert name == "image_folder" or f"prepare {name} --root {shlex.quote(str(tmp_path / 'my data'))}" in text
    assert list(tmp_path.iterdir()) == [], "nothing is made"


def test_digits_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path)]
    assert main(["prepare", "digits", *root]) == 0
    assert main(["prepare", "--check", "--decode", *root]) == 0
    assert (
        "Digits      897 / 300 / 600       10         0               complete, all decode" in capsys.readouterr().out
    )
    next((tmp_path / "digits" / "images" / "two").iterdir()).write_bytes(b"<html>")
    assert main(["prepare", "digits", "--check", *root]) == 1
    assert main(["prepare", "digits", "--check", "--decode", *root]) == 1
    assert "a web page, not an image" in capsys.readouterr().out


def test_a_check_changes_nothing_and_counts_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "oxford_pets" / "images").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert main(["prepare", "pets", "--check", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "split_zhou_OxfordPets.json is missing" in out
    assert "DIFFERS" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_one_set_that_fails_does_not_keep_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "imagenet", "digits", "--root", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "NOT PREPARED" in out
    assert "complete" in out
    assert "ILSVRC2012_img_train.tar cannot be fetched by a program" in err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["prepare", "pet"], "unknown data set 'pet'. Did you mean 'pets'?"),
        (["prepare"], "name at least one data set: pets, flowers, food101"),
        (["prepare", "--check"], "no data set in"),
        (["prepare", "pets", "dtd", "--archive", "x"], "--archive belongs to one data set"),
        (["prepare", "image_folder", "--check"], "is your own data"),
        (["prepare", "pets", "--link"], "--link needs --from DIR"),
    ],
)
def test_mistakes_on_the_command_line(
    words: list[str], answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--root", str(tmp_path)]) == 2
    assert answer in capsys.readouterr().err


def test_the_data_root_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADVPT_DATA", str(tmp_path))
    assert main(["prepare", "digits"]) == 0
    assert (tmp_path / "digits" / "advpt_prepare.json").is_file()


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
