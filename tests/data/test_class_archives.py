"""The archives of CIFAR, STL-10, TinyImageNet and Caltech-256: what becomes of them, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advpt.cli import main
from advpt.data import catalog, classnames, layout, manifest
from advpt.data.archives import Budget, extract
from advpt.data.preparation import Preparation
from advpt.data.prepare import prepare
from tests.helpers.class_archives import TOPS, per_class, pictures, records, tiny_class
from tests.helpers.prepare import (
    Server,
    Small,
    assert_not_taken_for_complete,
    check,
    everything,
    message,
    options,
    small,
    tarred,
    user_files,
    zipped,
)

SETS = tuple(TOPS)
pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


def unpacked(made: Small, folder: Path) -> Path:
    """The archive's members as a user has them who unpacked it."""
    (path,) = user_files(made, folder / "packed")
    extract(path, folder / "unpacked", Budget(10**9))
    return folder / "unpacked"


def assert_official(made: Small, root: Path) -> None:
    """Every image has its pixels, its class and its number."""
    names = list(classnames.shipped(made.facts))
    for part, count in zip(("train", "test"), per_class(made.facts.name)):
        expected = pictures(made.facts.name, part, count)
        for number, (image, label) in enumerate(zip(expected.images, expected.labels)):
            path = root / made.facts.folder / "images" / part / names[label] / f"{number:05d}.png"
            np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert len(list(root.rglob("*.png"))) == sum(made.facts.counts)


# --- binary files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_records_become_png_files(name: str, server: Server, tmp_path: Path) -> None:
    made = small(name, server)
    assert prepare(made.facts, tmp_path, options()).ok
    assert_official(made, tmp_path)
    folder = tmp_path / made.facts.folder
    assert not list(folder.rglob("*.bin")) and not (folder / ".prepare").exists()
    assert (manifest.manifest(folder) or {})["how"] == "unpacked"
    assert check((made.facts, folder)) == []
    before, asked = everything(tmp_path), len(server.requests)
    assert prepare(made.facts, tmp_path, options()).ok
    assert (everything(tmp_path), len(server.requests)) == (before, asked)


@pytest.mark.parametrize("inner", ["", *TOPS.values()])
@pytest.mark.parametrize("link", [False, True])
def test_from_unpacked_files(inner: str, link: bool, tmp_path: Path) -> None:
    """From the folder above the archive's, or from that itself under any name."""
    name = next((name for name, top in TOPS.items() if top == inner), "CIFAR10")
    made = small(name)
    theirs = unpacked(made, tmp_path)
    if inner:
        theirs = (theirs / inner).rename(tmp_path / "mine")
        (theirs / "notes").mkdir()
    before = everything(theirs)
    assert prepare(made.facts, tmp_path / "data", options(origin=theirs, link=link)).ok
    assert everything(theirs) == before
    assert_official(made, tmp_path / "data")
    assert (manifest.manifest(tmp_path / "data" / made.facts.folder) or {})["how"] == "unpacked"


@pytest.mark.parametrize(("link", "manner"), [(False, "copied"), (True, "linked")])
def test_from_images_that_were_made_before(link: bool, manner: str, tmp_path: Path) -> None:
    made = small("STL10")
    prepare(made.facts, tmp_path / "a", options(archives=user_files(made, tmp_path / "mine")))
    assert prepare(made.facts, tmp_path / "b", options(origin=tmp_path / "a" / "stl10", link=link)).ok
    assert_official(made, tmp_path / "b") if not link else None
    assert (manifest.manifest(tmp_path / "b" / "stl10") or {})["how"] == manner


@pytest.mark.parametrize(
    ("name", "needed", "packed"),
    [("STL10", "test_y.bin", "unlabeled_X.bin"), ("TinyImageNet", "val_annotations.txt", "test_0.JPEG")],
)
def test_images_without_labels_stay_packed(
    name: str, needed: str, packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small(name)
    mine = user_files(made, tmp_path / "mine")
    there: list[str] = []
    unpack = Preparation.unpack_archive

    def noting(self: Any, source: Any, path: Path, unpacked: Path) -> None:
        unpack(self, source, path, unpacked)
        there.extend(file.name for file in unpacked.rglob("*"))

    monkeypatch.setattr(Preparation, "unpack_archive", noting)
    assert prepare(made.facts, tmp_path / "data", options(archives=mine)).ok
    assert needed in there and packed not in there


@pytest.mark.parametrize("after", [0, 37])
def test_a_run_that_was_stopped_leaves_nothing_half_done(
    after: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small("CIFAR10", server)
    write, done = Image.Image.save, []

    def stopping(*words: Any, **options: Any) -> None:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(1)
        write(*words, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare(made.facts, tmp_path, options())
    assert_not_taken_for_complete(made, tmp_path)
    left = tmp_path / "cifar10" / ".prepare" / "staged" / "images" / "train" / "airplane"
    left.mkdir(parents=True)  # of a run that was killed
    (left / "77777.png").write_bytes(b"half")
    assert prepare(made.facts, tmp_path, options()).ok
    assert_official(made, tmp_path)
    assert len(server.asked("url/cifar-10-binary.tar.gz")) == 1, "the verified archive was kept for this run"


@pytest.mark.parametrize(
    ("name", "members", "advice"),
    [
        (
            "CIFAR10",
            ["cifar-10-batches-py/data_batch_1"],
            "these are CIFAR-10's Python pickles, which are never opened",
        ),
        ("CIFAR10", ["data_batch_1", "test_batch"], "these are CIFAR-10's Python pickles, which are never"),
        ("CIFAR10", ["cifar-100-binary/train.bin"], "this is CIFAR-100; cifar-10-binary.tar.gz is needed"),
        ("CIFAR10", ["cifar-100-python/train"], "this is CIFAR-100; cifar-10-binary.tar.gz is needed"),
        ("CIFAR100", ["cifar-100-python/train"], "these are CIFAR-100's Python pickles, which are never opened"),
        ("CIFAR100", ["cifar-10-batches-bin/test_batch.bin"], "this is CIFAR-10; cifar-100-binary.tar.gz is needed"),
        ("STL10", ["stl10_matlab/train.mat"], "this is the version for Matlab; stl10_binary.tar.gz is needed"),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_another_archive_is_answered_with_the_right_one(
    name: str, members: list[str], advice: str, folder: bool, tmp_path: Path
) -> None:
    made = small(name)
    for member in members if folder else ():
        (tmp_path / "mine" / member).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / member).write_bytes(b"\x80\x04.")
    (tmp_path / "x.tar.gz").write_bytes(tarred(dict.fromkeys(members, b"\x80\x04.")))
    given = {"origin": tmp_path / "mine"} if folder else {"archives": (tmp_path / "x.tar.gz",)}
    assert f"But {advice}" in message(made, tmp_path / "data", **given)


def test_pickles_in_the_data_root_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    facts = catalog.get("cifar10")
    lines = check((facts, tmp_path / "cifar10"))
    assert "Found cifar-10-batches-py: these are CIFAR-10's Python pickles, which are never opened" in lines[-2]


@pytest.mark.parametrize("unverified", [False, True])
def test_an_archive_with_a_wrong_file(unverified: bool, tmp_path: Path) -> None:
    made = small("STL10")
    (name,) = made.archives
    _, members = records("STL10")
    x = members["stl10_binary/test_X.bin"]
    for changed, words in (
        (x[:-1], "cut short"),
        (members["stl10_binary/test_y.bin"], "it is as long as test_y.bin"),
    ):
        (tmp_path / name).write_bytes(tarred(members | {"stl10_binary/test_X.bin": changed}))
        text = message(made, tmp_path / "data", archives=(tmp_path / name,), unverified=unverified)
        assert (words if unverified else "bytes, expected") in text
    other = bytes([x[0] ^ 1]) + x[1:]
    (tmp_path / name).write_bytes(tarred(members | {"stl10_binary/test_X.bin": other}))
    if unverified:
        assert prepare(made.facts, tmp_path / "data", options(archives=(tmp_path / name,), unverified=True)).ok
    theirs = tmp_path / "theirs" / "stl10_binary"
    theirs.mkdir(parents=True)
    for path, data in (members | {"stl10_binary/test_X.bin": other}).items():
        (theirs / Path(path).name).write_bytes(data)
    if unverified:
        assert prepare(made.facts, tmp_path / "two", options(origin=theirs, unverified=True)).ok
    else:
        assert f"{theirs}/test_X.bin has md5" in message(made, tmp_path / "two", origin=theirs)


def test_uneven_classes_and_lost_folders_are_named(tmp_path: Path) -> None:
    made = small("CIFAR10")
    prepare(made.facts, tmp_path, options(archives=user_files(made, tmp_path / "mine")))
    folder = tmp_path / "cifar10"
    prepared = (made.facts, folder)
    test = folder / "images" / "test"
    moved = next((test / "bird").iterdir())
    moved.rename(test / "cat" / moved.name)
    assert "images/test: 2 classes have not 2 images: bird (1), cat (3)" in check(prepared)[0]
    (test / "frog").rename(test / "toad")
    text = "\n".join(check(prepared))
    assert "1 missing: images/test/frog/" in text and "1 extra, in no list: images/test/toad/" in text
    assert layout.examine(*prepared).broken == {"images/test"}


# --- TinyImageNet ---------------------------------------------------------------------------------------------------


def assert_tiny(made: Small, root: Path) -> None:
    wnids = list(classnames.shipped(made.facts))[:4]
    folder = root / "tiny-imagenet"
    prepared = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.JPEG"))
    train = [f"train/{wnid}/{wnid}_{k}.JPEG" for wnid in wnids for k in range(3)]
    assert prepared == sorted(train + [f"val/{wnids[tiny_class(n)]}/val_{n}.JPEG" for n in range(8)])


def test_tiny_imagenet_is_sorted_and_its_test_stays_packed(tmp_path: Path) -> None:
    made = small("TinyImageNet")
    assert prepare(made.facts, tmp_path, options(archives=user_files(made, tmp_path / "mine"))).ok
    assert_tiny(made, tmp_path)
    assert sorted(path.name for path in (tmp_path / "tiny-imagenet").iterdir() if path.name[0] != ".") == [
        "advpt_prepare.json",
        "train",
        "val",
    ]


@pytest.mark.parametrize("form", ["official", "sorted", "sorted with images", "ours"])
@pytest.mark.parametrize("link", [False, True])
def test_tiny_imagenet_from_forms_that_users_have(form: str, link: bool, tmp_path: Path) -> None:
    made = small("TinyImageNet")
    theirs = unpacked(made, tmp_path) / "tiny-imagenet-200"
    if form.startswith("sorted"):
        for line in (theirs / "val" / "val_annotations.txt").read_text().splitlines():
            image, wnid, *_ = line.split("\t")
            target = theirs / "val" / wnid / ("images" if form.endswith("images") else "") / image
            target.parent.mkdir(parents=True, exist_ok=True)
            (theirs / "val" / "images" / image).rename(target)
        (theirs / "val" / "images").rmdir()
    if form == "ours":
        prepare(made.facts, tmp_path / "ours", options(origin=theirs))
        theirs = tmp_path / "ours" / "tiny-imagenet"
    before = everything(theirs)
    assert prepare(made.facts, tmp_path / "data", options(origin=theirs, link=link)).ok
    assert everything(theirs) == before
    if not link:
        assert_tiny(made, tmp_path / "data")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (None, "val_annotations.txt is missing: nothing else says which class"),
        ("val_0.JPEG\tn01443537\t0\n", "has 7 of 8 images that val_annotations.txt does not name: val_1.JPEG"),
        ("val_0.JPEG n01443537\n", "line 1 is 'val_0.JPEG n01443537'; expected the name of an image, a tab and a wnid"),
        ("\n".join(f"val_{n}.JPEG\t../../../x\t0" for n in range(8)), "line 1 is 'val_0.JPEG\\t../../../x\\t0'"),
    ],
    ids=["none", "other images", "another form", "leads out"],
)
def test_a_list_of_val_that_is_wrong(lines: str | None, words: str, tmp_path: Path) -> None:
    made = small("TinyImageNet")
    theirs = unpacked(made, tmp_path) / "tiny-imagenet-200"
    path = theirs / "val" / "val_annotations.txt"
    path.unlink() if lines is None else path.write_text(lines)
    before = everything(theirs)
    assert words in message(made, tmp_path / "data", origin=theirs)
    assert everything(theirs) == before
    assert not (tmp_path / "x").exists()


# --- Caltech-256 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["archive", "copy", "link"])
def test_caltech_256_has_its_jpg_files_alone(way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = small("Caltech256")
    mine = user_files(made, tmp_path / "mine")
    theirs = unpacked(made, tmp_path)
    before = everything(theirs)
    given = {"archives": mine} if way == "archive" else {"origin": theirs, "link": way == "link"}
    assert prepare(made.facts, tmp_path / "data", options(**given)).ok
    assert everything(theirs) == before
    top = tmp_path / "data" / "caltech-256" / "256_ObjectCategories"
    assert sorted(str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()) == [
        f"{folder}/{folder[:3]}_000{k}.jpg"
        for folder in ("056.dog", "198.spider", "251.airplanes-101", "257.clutter")
        for k in (1, 2)
    ]
    assert (
        "2 files are no images of it and are left out: 056.dog/greg/vision309/a.jpg, 198.spider/RENAME2" in caplog.text
    )


def test_a_raw_folder_in_the_place_of_caltech_256_is_told(tmp_path: Path) -> None:
    made = small("Caltech256")
    raw = unpacked(made, tmp_path) / "256_ObjectCategories"
    (tmp_path / "caltech-256").mkdir()
    raw.rename(tmp_path / "caltech-256" / "256_ObjectCategories")
    assert "256_ObjectCategories has 9 images, expected 8" in check((made.facts, tmp_path / "caltech-256"))[0]


# --- the command ----------------------------------------------------------------------------------------------------


def test_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = small("STL10")
    (archive,) = user_files(made, tmp_path / "mine")
    monkeypatch.setitem(catalog._BY_NAME, "stl10", made.facts)
    words = ["--root", str(tmp_path / "data")]
    assert main(["prepare", "stl10", *words, "--offline", "--archive", str(archive)]) == 0
    assert main(["prepare", "stl10", *words, "--check", "--decode"]) == 0
    assert (
        "STL10       20 / 0 / 10           10         0               complete, all decode" in capsys.readouterr().out
    )
    next((tmp_path / "data" / "stl10" / "images" / "test" / "ship").iterdir()).unlink()
    assert main(["prepare", "stl10", *words, "--check"]) == 1
    assert "images/test has 9 images, expected 10" in capsys.readouterr().out
    assert prepare(made.facts, tmp_path / "data", options(archives=(archive,))).ok, "the part is made anew"


def test_zip_members_are_left_packed_too(tmp_path: Path) -> None:
    for mode, data in (("zip", zipped), ("tar", tarred)):
        path = tmp_path / f"a.{mode}"
        path.write_bytes(data({"top/a": b"1", "top/b/c": b"22" * 99, "top/bb": b"3", "b/c": b"4"}))
        extract(path, tmp_path / mode, Budget(5), ["top/b"])
        assert everything(tmp_path / mode) == {"top/a": b"1", "top/bb": b"3", "b/c": b"4"}
