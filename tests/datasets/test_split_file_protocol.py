"""Data sets under ``DATASET.PROTOCOL tecoa``, from trees of empty files."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from advpt.data import catalog, zero_shot
from advpt.errors import ConfigError, DataError
from tests.helpers.dataset_trees import Build, content, touch, tree

pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")
TECOA = {"PROTOCOL": "tecoa"}


def names(data: Any) -> list[str]:
    return [Path(item.impath).name for item in data.test]


def as_if_official(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    """Let the table's numbers be those of a small tree."""
    rule = dataclasses.replace(zero_shot.table()[name], **fields)
    monkeypatch.setattr(zero_shot, "table", lambda: {name: rule})


def test_all_images_of_eurosat_under_names_of_the_protocol(build: Build, tmp_path: Path, monkeypatch) -> None:
    images = tmp_path / "eurosat" / "2750"
    touch(images, (f"{folder}/{folder}_{i}.jpg" for folder in ("SeaLake", "AnnualCrop") for i in (2, 1)))
    with pytest.warns(UserWarning, match="EuroSAT: 4 images of 2 classes are tested, the protocol has 27,000 of 10"):
        data = build("EuroSAT", **TECOA)
    assert data.classnames == ["annual crop land", "a sea or a lake"] and data.comparable is False
    assert names(data) == ["AnnualCrop_1.jpg", "AnnualCrop_2.jpg", "SeaLake_1.jpg", "SeaLake_2.jpg"]
    assert [item.label for item in data.test] == [0, 0, 1, 1] and data.val is None
    assert data.warnings and "are tested" in data.warnings[0]
    as_if_official(monkeypatch, "EuroSAT", images=4, classes=2)
    assert build("EuroSAT", **TECOA).comparable is True
    with pytest.raises(DataError, match="split_zhou_EuroSAT.json is missing"):
        build("EuroSAT")


def test_caltech_leaves_the_background_out_and_has_two_classes_of_one_name(build: Build, tmp_path: Path) -> None:
    images = tmp_path / "caltech-101" / "101_ObjectCategories"
    touch(images, (f"{name}/image_0001.jpg" for name in ("ant", "Faces_easy", "BACKGROUND_Google", "Faces")))
    data = build("Caltech101", **TECOA)
    assert data.classnames == ["person", "person", "ant"] and len(data.test) == 3


def test_sun_has_its_classes_at_two_depths(build: Build, tmp_path: Path) -> None:
    images = tmp_path / "sun397" / "SUN397"
    touch(images, ("b/bow_window/outdoor/sun_1.jpg", "a/abbey/sun_2.jpg", "b/bow_window/indoor/sun_3.jpg"))
    data = build("SUN397", **TECOA)
    assert data.classnames == ["abbey", "bow window indoor", "bow window outdoor"]
    assert names(data) == ["sun_2.jpg", "sun_3.jpg", "sun_1.jpg"]


@pytest.mark.parametrize(
    ("name", "folder", "file", "lines", "suffix"),
    [
        ("DescribableTextures", "dtd", "labels/test1.txt", ["zigzagged/z_2.jpg", "banded/b_1.jpg"], ""),
        ("Food101", "food-101", "meta/test.txt", ["waffles/12", "apple_pie/7"], ".jpg"),
    ],
)
def test_the_data_sets_own_list_says_what_is_tested(
    build: Build, tmp_path: Path, name: str, folder: str, file: str, lines: list[str], suffix: str
) -> None:
    paths = [f"{line}{suffix}" for line in lines]
    touch(tmp_path / folder / "images", [*paths, "banded/b_9.jpg", "apple_pie/9.jpg"])
    with pytest.raises(DataError, match=f"{file} is missing, which says what the protocol tecoa tests.*run: curl -L "):
        build(name, **TECOA)
    touch(tmp_path / folder, [file])
    (tmp_path / folder / file).write_text("\n".join(lines) + "\n")
    data = build(name, **TECOA)
    assert names(data) == [Path(path).name for path in paths], "in the order of the list"
    assert [item.label for item in data.test] == [1, 0], "labels follow the sorted classes"
    (tmp_path / folder / "images" / paths[0]).unlink()
    with pytest.raises(DataError, match=f"1 of 2 files listed in {file} are missing"):
        build(name, **TECOA)


def flowers(root: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[int]) -> dict[str, Any]:
    """Six flowers, with the official test numbers; the md5 of their file is the one on record."""
    made = content([("image_{:05d}.jpg", "rose")], train=3, val=1, test=2)
    made["val"][0][1:], made["test"][0][1:] = [1, "lily"], [1, "lily"]
    folder = tree(root, "OxfordFlowers", made)
    savemat(folder / "setid.mat", {"tstid": np.array([numbers]), "trnid": np.array([[1]])})
    md5 = hashlib.md5((folder / "setid.mat").read_bytes(), usedforsecurity=False).hexdigest()
    as_if_official(monkeypatch, "OxfordFlowers", images=len(numbers), classes=2, md5=md5)
    return made


def test_flowers_have_their_official_test_images(build: Build, tmp_path: Path, monkeypatch) -> None:
    made = flowers(tmp_path, monkeypatch, [3, 1, 2])
    data = build("OxfordFlowers", **TECOA)
    assert names(data) == ["image_00003.jpg", "image_00001.jpg", "image_00002.jpg"]
    by_name = {row[0]: row for rows in made.values() for row in rows}
    assert [(i.label, i.classname) for i in data.test] == [tuple(by_name[name][1:]) for name in names(data)]
    assert data.comparable is False, "the split file is not the official one"
    flowers(tmp_path, monkeypatch, [3, 77])
    with pytest.raises(DataError, match="names 1 images that the split file does not: image_00077.jpg"):
        build("OxfordFlowers", **TECOA)


CASES = [
    ("StanfordCars", "2000 AM General Hummer", "AM General Hummer"),
    ("OxfordPets", "basset_hound", "basset_hound"),
]


@pytest.mark.parametrize(("name", "coop", "tecoa"), CASES)
def test_the_same_test_images_under_other_names(
    build: Build, tmp_path: Path, monkeypatch, name: str, coop: str, tecoa: str
) -> None:
    tree(tmp_path, name, content([("cars_test/{}.jpg", coop)]))
    before, data = build(name), build(name, **TECOA)
    assert names(data) == names(before) and (before.classnames, data.classnames) == ([coop], [tecoa])
    assert data.split_digest != before.split_digest
    assert len(data.train_x) == len(data.test), "there are no training images"
    assert data.no_training.startswith("DATASET.PROTOCOL tecoa tests it") and not before.no_training
    as_if_official(monkeypatch, name, images=2, classes=1)
    assert build(name, **TECOA).comparable is False, "the split file is not the official one"
    assert [i.impath for i in build(name, shots=1, seed=1, **TECOA).test] == [i.impath for i in data.test]
    assert not list((tmp_path / catalog.get(name).folder).glob("*fewshot*")), "no list of chosen training images"


def test_aircraft_is_split_by_its_own_lists(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "fgvc_aircraft"
    touch(folder, ["images/1.jpg", "images/2.jpg", "images/3.jpg"])
    (folder / "variants.txt").write_text("707-320\nA300B4\n")
    for part, line in (("train", "1 707-320"), ("val", "2 A300B4"), ("test", "3 707-320")):
        (folder / f"images_variant_{part}.txt").write_text(f"{line}\n")
    data = build("FGVCAircraft", **TECOA)
    assert names(data) == ["3.jpg"] and data.classnames == ["boeing 707-320"] and data.no_training


def test_what_is_coops_alone_is_refused(build: Build, tmp_path: Path) -> None:
    tree(tmp_path, "OxfordPets", content([("{}.jpg", "pug"), ("x{}.jpg", "beagle")]))
    with pytest.raises(ConfigError, match=r"CLASSES is base: halves of .*PROTOCOL is tecoa; leave it at all"):
        build("OxfordPets", subsample="base", **TECOA)
    with pytest.raises(ConfigError, match="PROTOCOL is tecoa, and Digits is not among its data sets"):
        build("Digits", **TECOA)
    with pytest.raises(ConfigError, match="PROTOCOL: unknown protocol 'paper'"):
        build("OxfordPets", PROTOCOL="paper")


def test_titles_and_banks_have_names_of_their_own(tmp_path: Path) -> None:
    class Node:
        NAME, ROOT, PROTOCOL, TITLE = "OxfordPets", str(tmp_path), "tecoa", ""

    assert (catalog.title(Node), catalog.bank_name(Node)) == ("OxfordPets-tecoa", "OxfordPets-tecoa")
    Node.TITLE = "mine"
    assert (catalog.title(Node), catalog.bank_name(Node)) == ("mine-tecoa", "mine-tecoa")
    Node.PROTOCOL, Node.TITLE = "coop", ""
    assert (catalog.title(Node), catalog.bank_name(Node)) == ("OxfordPets", "OxfordPets")


def test_cifar_has_the_same_images_and_another_digest(build: Build, tmp_path: Path) -> None:
    images = tmp_path / "cifar100" / "images"
    folders = [line.split()[0] for line in (zero_shot.HERE / "cifar100_classnames.txt").read_text().splitlines()[:3]]
    touch(images, (f"{part}/{folder}/{i:05d}.png" for part in ("train", "test") for i, folder in enumerate(folders)))
    before, data = build("CIFAR100"), build("CIFAR100", **TECOA)
    assert [i.impath for i in before.test] == [i.impath for i in data.test] and len(data.train_x) == 3
    assert data.split_digest != before.split_digest and not data.no_training
    assert not any("_" in name for name in data.classnames)
