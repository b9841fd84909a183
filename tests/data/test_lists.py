"""What a run's folder knows its data by: equal in another place, and what differs is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from advpt.data.lists import DataLists
from advpt.errors import DataError

NAMES = ("fox", "owl")


def put(folder: Path, part: str, name: str, file: str, content: str = "") -> None:
    path = folder / part / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or f"{part} {name} {file}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, n in (("train", 4), ("val", 1), ("test", 3)):
        for name in NAMES:
            for i in range(n):
                put(tmp_path / "animals", part, name, f"{i}.png")
    return tmp_path / "animals"


def lists(folder: Path, names: tuple[str, ...] = NAMES) -> DataLists:
    """As a data set in Dassl's form lists them."""

    def read(part: str) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(impath=str(path), label=label, classname=name)
            for label, name in enumerate(names)
            for path in sorted((folder / part / name).glob("*.png"))
        ]

    return DataLists.of(
        SimpleNamespace(train_x=read("train"), val=read("val") or None, test=read("test"), classnames=list(names))
    )


def kept(folder: Path) -> dict:
    return json.loads(json.dumps(lists(folder).fields()))


def test_the_same_data_in_another_place_are_the_same(folder, tmp_path):
    before, digest = kept(folder), lists(folder).tuned_on["digest"]
    moved = tmp_path / "elsewhere" / "under" / "another name"
    moved.parent.mkdir(parents=True)
    shutil.move(folder, moved)
    found = lists(moved)
    assert found.folder == moved and found.difference(before) == "" and found.fields() == before
    assert found.tuned_on == {"classes": 2, "images": 8, "digest": digest}
    assert found.split.train[0] == ("train/fox/0.png", 0, "fox")


def test_other_classes_are_named(folder):
    before = kept(folder)
    for name in ("crow", "fox", "owl"):
        put(folder, "train", name, "9.png")
    assert "it has 2 classes (fox, owl), this run 3 (crow, fox, owl)" in lists(folder, ("crow", *NAMES)).difference(
        before
    )
    assert "its class 0 is 'fox', that of this run 'owl'" in lists(folder, NAMES[::-1]).difference(before)


def test_grown_and_shrunk_lists_are_named_with_the_first_file_that_differs(folder):
    before = kept(folder)
    put(folder, "train", "fox", "2a.png")
    grown = lists(folder)
    assert grown.difference(before) == (
        "its train list has 8 images, that of this run 9; the first that differs is here train/fox/2a.png (image 4)"
    )
    assert grown.difference(before, ("test",)) == "", "an evaluation does not read the training images"
    (folder / "train/fox/2a.png").unlink()
    (folder / "test/owl/2.png").unlink()
    assert lists(folder).difference(before, ("test",)) == "its test list has 6 images, that of this run 5"
    put(folder, "test", "owl", "3.png")
    assert "here test/owl/3.png (image 6)" in lists(folder).difference(before, ("test",))


def test_other_images_behind_the_same_names_are_other_data_and_a_repaired_one_is_not(folder):
    before = kept(folder)
    put(folder, "train", "fox", "0.png", "repaired")
    assert lists(folder).difference(before) == ""
    for path in (folder / "train").glob("*/*.png"):
        path.write_text("other " + path.name)
    assert "the images of train have the same names and another content" in lists(folder).difference(before)
    (folder / "train/fox/0.png").unlink()
    (folder / "train/fox/0.png").symlink_to(folder / "nowhere")
    with pytest.raises(DataError, match="train/fox/0.png is missing"):
        lists(folder).difference(before)


def test_what_is_no_list_of_data_is_a_difference_and_not_an_error(folder):
    found = lists(folder)
    for broken in ({}, {"classnames": 3}, {"classnames": list(NAMES)}, {"classnames": list(NAMES), "train": {"n": []}}):
        assert found.difference(broken)
    odd = kept(folder)
    odd["train"]["rows"] = odd["train"]["contents"] = 5
    assert found.difference(odd)
