"""ImageNet's archives: classes in an archive of their own, and validation images that are not sorted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advpt.data import archives, layout, manifest
from advpt.data.catalog import get
from advpt.data.prepare import prepare
from tests.helpers.prepare import (
    Server,
    assert_not_taken_for_complete,
    everything,
    message,
    options,
    picture,
    small,
    solution,
    tarred,
    user_files,
    wnid_of,
)

# --- ImageNet -----------------------------------------------------------------------------------------------------


def test_imagenet_val_is_sorted_by_the_devkit(tmp_path: Path) -> None:
    made = small("ImageNet")
    prepare(made.facts, tmp_path, options(archives=user_files(made, tmp_path / "mine")))
    val = tmp_path / "imagenet" / "images" / "val"
    assert {path.name: path.parent.name for path in val.rglob("*.JPEG")} == {
        f"ILSVRC2012_val_{n:08d}.JPEG": wnid_of(n) for n in range(1, 9)
    }


def test_class_tars_that_lie_in_train_are_unpacked(tmp_path: Path) -> None:
    made = small("ImageNet")
    prepare(made.facts, tmp_path, options(archives=user_files(made, tmp_path / "mine")))
    train = tmp_path / "imagenet" / "images" / "train"
    wnid = sorted(path.name for path in train.iterdir())[1]
    (train / f"{wnid}.tar").write_bytes(
        tarred({path.name: path.read_bytes() for path in (train / wnid).iterdir()}, mode="w")
    )
    for path in (train / wnid).iterdir():
        path.unlink()
    (train / wnid).rmdir()
    (train / f".{wnid}-killed.partial").mkdir()
    assert prepare(made.facts, tmp_path, options()).ok
    assert (train / f"{wnid}.tar").is_file()
    assert not list(train.glob(".*.partial"))  # what a killed run was filling


@pytest.mark.parametrize("helper", ["ILSVRC2012_devkit_t12.tar.gz", "LOC_val_solution.csv"])
def test_sort_val_in_place(helper: str, tmp_path: Path) -> None:
    made = small("ImageNet")
    mine = user_files(made, tmp_path / "mine")
    prepare(made.facts, tmp_path, options(archives=mine))
    val = tmp_path / "imagenet" / "images" / "val"
    for path in list(val.rglob("*.JPEG")):
        path.rename(val / path.name)
    for folder in list(val.iterdir()):
        if folder.is_dir():
            folder.rmdir()
    (tmp_path / "mine" / "LOC_val_solution.csv").write_text(solution())
    given = options(sort_val=True, archives=(tmp_path / "mine" / helper,))
    assert prepare(made.facts, tmp_path, given).ok
    assert {path.parent.name for path in val.rglob("*.JPEG")} == {wnid_of(n) for n in range(1, 9)}
    folder = tmp_path / "imagenet"
    assert manifest.changes(folder, layout.examine(made.facts, folder)) == []


@pytest.mark.parametrize("link", [False, True])
def test_from_kaggles_layout(link: bool, tmp_path: Path) -> None:
    made = small("ImageNet")
    prepare(made.facts, tmp_path / "a", options(archives=user_files(made, tmp_path / "mine")))
    theirs = tmp_path / "kaggle"
    top = theirs / "ILSVRC" / "Data" / "CLS-LOC"
    top.mkdir(parents=True)
    (tmp_path / "a" / "imagenet" / "images" / "train").rename(top / "train")
    (top / "val").mkdir()
    for path in list((tmp_path / "a").rglob("ILSVRC2012_val_*.JPEG")):
        path.rename(top / "val" / path.name)
    (theirs / "LOC_val_solution.csv").write_text(solution())
    before = everything(theirs)
    report = prepare(made.facts, tmp_path / "b", options(origin=theirs, link=link))
    assert report.ok
    assert everything(theirs) == before
    assert get("ImageNet").parts[1].target == "images/val"


pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


# --- ImageNet -----------------------------------------------------------------------------------------------------


def test_unsorted_val_images_are_answered_with_sort_val(server: Server, tmp_path: Path) -> None:
    made = small("ImageNet")
    val = tmp_path / "imagenet" / "images" / "val"
    val.mkdir(parents=True)
    for number in range(1, 9):
        (val / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(picture(number))
    before = everything(val)
    text = message(made, tmp_path)
    assert f"{val} has 8 files and no class folders" in text
    assert f"prepare imagenet --root {tmp_path} --sort-val --archive ILSVRC2012_devkit_t12.tar.gz" in text
    assert "nothing here says which class each belongs to" in message(made, tmp_path, sort_val=True)
    assert everything(val) == before


def test_val_images_of_another_kind_are_not_moved(tmp_path: Path) -> None:
    made = small("ImageNet")
    mine = user_files(made, tmp_path / "mine", ["ILSVRC2012_devkit_t12.tar.gz"])
    val = tmp_path / "imagenet" / "images" / "val"
    val.mkdir(parents=True)
    for name in ("ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000009.JPEG", "cat.jpg"):
        (val / name).write_bytes(b"1")
    text = message(made, tmp_path, sort_val=True, archives=mine)
    assert (
        "has 2 of 3 images that are not among the 8 val images of 2012: ILSVRC2012_val_00000009.JPEG, cat.jpg" in text
    )
    assert len(list(val.iterdir())) == 3


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("LOC_val_solution.csv", b"a,b\n", "no line of the form"),
        ("ILSVRC2012_devkit_t12.tar.gz", tarred({"x": b"1"}), "is not ILSVRC2012_devkit_t12.tar.gz"),
    ],
    ids=["csv", "devkit"],
)
def test_a_list_of_classes_that_is_none(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    made = small("ImageNet")
    (tmp_path / name).write_bytes(data)
    val = tmp_path / "imagenet" / "images" / "val"
    val.mkdir(parents=True)
    (val / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"1")
    assert words in message(made, tmp_path, sort_val=True, unverified=True, archives=(tmp_path / name,))


def test_another_tar_as_imagenets_train(tmp_path: Path) -> None:
    made = small("ImageNet")
    mine = user_files(made, tmp_path / "mine")
    mine[0].write_bytes(tarred({"photos/1.jpg": b"1"}, "w"))
    text = message(made, tmp_path / "data", archives=mine, unverified=True)
    assert "holds 'photos/1.jpg'; expected nothing but one tar per class (n01440764.tar)" in text


def test_unpacking_train_continues_with_the_next_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small("ImageNet")
    mine = user_files(made, tmp_path / "mine")
    real, unpacked = archives.extract_members, []

    def stop_at_the_third(members: Any, name: str, target: Path, *rest: Any) -> None:
        unpacked.append(name)
        if len(unpacked) == 3:
            raise KeyboardInterrupt
        real(members, name, target, *rest)

    monkeypatch.setattr(archives, "extract_members", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(made.facts, tmp_path / "data", options(archives=mine))
    assert_not_taken_for_complete(made, tmp_path / "data")
    assert prepare(made.facts, tmp_path / "data", options(archives=mine)).ok
    train = [name for name in unpacked if "img_train" in name]
    assert len(train) == 5
    assert train[3] == train[2], "the class that was interrupted, and none of the complete ones"


def test_unpacked_train_is_kept_where_val_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small("ImageNet")
    mine = user_files(made, tmp_path / "mine")
    real, unpacked = archives.extract_members, []

    def noting(members: Any, name: str, target: Path, *rest: Any) -> None:
        unpacked.append(name)
        real(members, name, target, *rest)

    monkeypatch.setattr(archives, "extract_members", noting)
    val = next(path for path in mine if "img_val" in path.name)
    whole = val.read_bytes()
    val.write_bytes(whole[: len(whole) // 2])
    text = message(made, tmp_path / "data", archives=mine, unverified=True)
    assert "ILSVRC2012_img_val.tar is cut short or damaged" in text
    val.write_bytes(whole)
    before = len(unpacked)
    assert before > 4
    assert prepare(made.facts, tmp_path / "data", options(archives=mine)).ok
    assert not [name for name in unpacked[before:] if "img_train" in name]
