"""One's own data in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advpt.errors import ConfigError, DataError
from tests.helpers.dataset_trees import Build, touch

PATHS = [
    *(f"train/{c}/{i}.jpg" for c in ("red_fox", "Arctic hare", "owl") for i in range(5)),
    *(f"val/{c}/{i}.png" for c in ("red_fox", "owl") for i in range(2)),
    *(f"test/{c}/{i}.JPEG" for c in ("red_fox", "Arctic hare", "owl") for i in range(3)),
]


def test_folders_are_classes(build: Build, tmp_path: Path) -> None:
    touch(tmp_path / "image_folder", [*PATHS, "train/.DS_Store", "train/owl/._0.jpg", "train/owl/Thumbs.db"])
    data = build("ImageFolder")
    assert data.classnames == ["Arctic hare", "owl", "red_fox"]
    assert (len(data.train_x), len(data.val), len(data.test)) == (15, 4, 9)
    assert {Path(item.impath).parent.name: item.label for item in data.test} == {
        "Arctic hare": 0,
        "owl": 1,
        "red_fox": 2,
    }
    assert data.comparable is True and data.warnings == []
    assert len(data.split_digest) == 64
    assert len(build("ImageFolder", shots=2).train_x) == 6
    assert build("ImageFolder", subsample="new").classnames == ["red_fox"]


def test_the_root_itself_another_folder_and_no_val(build: Build, tmp_path: Path) -> None:
    touch(tmp_path, [path for path in PATHS if not path.startswith("val")])
    data = build("ImageFolder")
    assert len(data.train_x) == 15
    assert not data.val
    touch(tmp_path / "animals", PATHS)
    assert len(build("ImageFolder", FOLDER="animals").val) == 4


@pytest.mark.parametrize(
    ("extra", "lost", "message"),
    [
        ([], "test/", r"/image_folder/test does not exist; expected train/<class>/<image>"),
        ([], "train/", r"/image_folder/train does not exist"),
        (["test/lynx/1.jpg"], "-", "has classes that train has not: lynx. Known: Arctic hare, owl, red_fox"),
        (["train/lynx/notes.txt"], "-", "no images in these folders of .*/train: lynx"),
        (["test/loose.jpg"], "test/", "/test has no class folders; expected"),
    ],
)
def test_what_is_wrong_is_said(build: Build, tmp_path: Path, extra: list[str], lost: str, message: str) -> None:
    folder = tmp_path / "image_folder"
    touch(folder, [*(path for path in PATHS if not path.startswith(lost)), *extra])
    with pytest.raises(DataError, match=message):
        build("ImageFolder")


@pytest.mark.parametrize("odd", ("train/owl/caf\udce9.jpg", "test/owl/caf\udce9.jpg", "caf\udce9"))
def test_names_that_are_not_utf8_are_named_with_their_bytes(build: Build, tmp_path: Path, odd: str) -> None:
    folder = tmp_path / "image_folder"
    touch(folder, PATHS)
    if "/" in odd:
        usual = odd.replace("caf\udce9", "0")
        (folder / usual.replace("test/owl/0.jpg", "test/owl/0.JPEG")).rename(folder / odd)
    else:
        for part in ("train", "val", "test"):
            if (folder / part / "owl").is_dir():
                (folder / part / "owl").rename(folder / part / odd)
    with pytest.raises(DataError, match=r"the name '.*caf\\xe9.*' is not UTF-8; rename it"):
        build("ImageFolder")


@pytest.mark.parametrize("subsample", ("new", "base"))
def test_one_class_has_no_new_half(build: Build, tmp_path: Path, subsample: str) -> None:
    touch(tmp_path / "image_folder", [path for path in PATHS if "/owl/" in path])
    if subsample == "base":
        assert build("ImageFolder", subsample="base").classnames == ["owl"]
        return
    with pytest.raises(
        ConfigError, match=r"SUBSAMPLE_CLASSES is 'new', but the data set has 1 class\(es\): none is left"
    ):
        build("ImageFolder", subsample="new")


def picture(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, format=kind)


def test_images_of_any_suffix_without_one_and_in_folders_are_read(build: Build, tmp_path: Path) -> None:
    touch(tmp_path, PATHS)
    owl = tmp_path / "test" / "owl"
    for name, kind in (("a.jfif", "JPEG"), ("b.JPE", "JPEG"), ("png", "PNG"), ("jpeg", "JPEG"), ("gif", "GIF"),
                       ("webp", "WEBP"), ("2021/deep.png", "PNG"), ("2021/05/x.jpg", "JPEG")):  # fmt: skip
        picture(owl / name, kind)
    (owl / "again").symlink_to(owl, target_is_directory=True)  # a circle
    touch(owl, ["2021/.hidden.png", ".git/x.png", "Thumbs.db", "2021/Desktop.ini"])
    with pytest.warns(UserWarning, match="2 images lie in folders inside a class folder"):
        data = build("ImageFolder")
    found = sorted(Path(item.impath).relative_to(owl).as_posix() for item in data.test if item.label == 1)
    assert found == sorted(["0.JPEG", "1.JPEG", "2.JPEG", "a.jfif", "b.JPE", "png", "jpeg", "gif", "webp",
                            "2021/deep.png", "2021/05/x.jpg"])  # fmt: skip
    assert data.warnings == [
        "ImageFolder: test: 2 images lie in folders inside a class folder and are read as images of that class: "
        "owl/2021/05/x.jpg, owl/2021/deep.png"
    ]


def test_what_is_left_out_is_named(build: Build, tmp_path: Path) -> None:
    touch(tmp_path, [path for path in PATHS if not path.startswith("val")])
    touch(
        tmp_path, ["test/owl/notes.txt", "test/owl/raw.nef", "test/owl/empty", "test/red_fox/x.heic", "test/loose.jpg"]
    )
    touch(tmp_path, ["valid/owl/0.jpg"])
    picture(tmp_path / "train" / "owl" / "copy.bak", "PNG")
    with pytest.warns(UserWarning, match="are left out"):
        data = build("ImageFolder")
    assert len(data.test) == 9 and len(data.train_x) == 15
    assert data.warnings == [
        "ImageFolder: train: 1 files in class folders are left out; they are no images by suffix, nor without one by "
        "content: owl/copy.bak",
        "ImageFolder: test: 4 files in class folders are left out; they are no images by suffix, nor without one by "
        "content: owl/empty, owl/notes.txt, owl/raw.nef, red_fox/x.heic",
        "ImageFolder: test: 1 images beside the class folders are left out: loose.jpg",
        "ImageFolder: there is no validation split: it is read from val, and the folder valid is left out",
    ]
    assert str(tmp_path) not in "".join(data.warnings), "equal data have equal records, wherever they lie"
