"""CIFAR, STL-10, TinyImageNet and Caltech-256 as data sets: order, names, parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torchvision
from dassl.data.datasets import DATASET_REGISTRY

from advpt.data import catalog, classnames
from advpt.data.images import read_rgb
from advpt.data.prepare import prepare
from advpt.errors import ConfigError, DataError
from tests.helpers.class_archives import TOPS, per_class, pictures, records
from tests.helpers.dataset_trees import Build, touch
from tests.helpers.prepare import load, options, small, user_files

pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


def folders(name: str, *parts: str) -> list[str]:
    """Two images in each class folder of parts, made in reverse order; numbers run through the classes."""
    names = list(classnames.shipped(catalog.get(name)))
    count, end = len(names), ".png" if catalog.get(name).records else ".JPEG"
    images = ((part, label, k) for part in parts for label in range(count) for k in range(2))
    return [f"{part}/{names[label]}/{k * count + count - 1 - label:05d}{end}" for part, label, k in images][::-1]


@pytest.mark.parametrize("name", TOPS)
def test_images_come_in_the_order_of_the_official_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small(name)
    prepare(made.facts, tmp_path, options(archives=user_files(made, tmp_path / "mine")))
    data = load(made, tmp_path, monkeypatch)
    names = list(classnames.shipped(made.facts).values())
    assert data.classnames == names and data.comparable is True
    for part, count, items in zip(("train", "test"), per_class(name), (data.train_x, data.test)):
        expected = pictures(name, part, count)
        assert [item.label for item in items] == expected.labels.tolist()
        assert [item.classname for item in items] == [names[label] for label in expected.labels]
        for item, image in list(zip(items, expected.images))[:20]:
            np.testing.assert_array_equal(np.asarray(read_rgb(Path(item.impath))), image)
    assert data.val is data.test


def test_stl_is_what_torchvision_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unchecked(torchvision.datasets.STL10):
        def _check_integrity(self) -> bool:
            return True

    made, (_, members) = small("STL10"), records("STL10")
    for path, content in members.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    prepare(made.facts, tmp_path / "data", options(origin=tmp_path))
    data = load(made, tmp_path / "data", monkeypatch)
    for part, items in (("train", data.train_x), ("test", data.test)):
        theirs = Unchecked(str(tmp_path), split=part)
        assert theirs.classes == data.classnames and len(theirs) == len(items)
        for (image, label), item in zip(theirs, items):
            assert label == item.label
            np.testing.assert_array_equal(np.asarray(image), np.asarray(read_rgb(Path(item.impath))))


@pytest.mark.parametrize(("name", "parts"), [("CIFAR10", ("train", "test")), ("TinyImageNet", ("train", "val"))])
def test_few_shots_base_and_new(name: str, parts: tuple[str, str], build: Build, tmp_path: Path) -> None:
    facts = catalog.get(name)
    images = tmp_path / facts.folder / facts.image_dir
    touch(images, folders(name, *parts))
    names = list(classnames.shipped(facts).values())
    data = build(name, shots=1, seed=2)
    assert sorted(item.label for item in data.train_x) == list(range(facts.classes))
    assert len(data.test) == 2 * facts.classes and data.val is data.test
    again = build(name, shots=1, seed=2)
    assert [item.impath for item in again.train_x] == [item.impath for item in data.train_x]
    assert build(name, subsample="base").classnames == names[: facts.classes // 2]
    new = build(name, subsample="new")
    assert new.classnames == names[facts.classes // 2 :]
    assert {item.label for item in new.test} == set(range(facts.classes // 2))
    with pytest.raises(ConfigError, match=f"{name} has no test subsets"):
        build(name, test_subset="paper1000")


def test_tiny_imagenet_comes_by_class(build: Build, tmp_path: Path) -> None:
    touch(tmp_path / "tiny-imagenet", folders("TinyImageNet", "train", "val"))
    data = build("TinyImageNet")
    assert [item.label for item in data.test] == [label for label in range(200) for _ in range(2)]
    assert data.classnames[:2] == ["goldfish", "european fire salamander"]
    assert "hog" in data.classnames
    assert data.comparable is False and data.warnings == []


def test_official_counts_and_folders_are_comparable(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "cifar100" / "images", folders("CIFAR100", "train", "test"))
    with pytest.warns(UserWarning, match="200 / 0 / 200 images in train / val / test instead of 50,000 / 0 / 10,000"):
        assert build("CIFAR100").comparable is False
    cls = DATASET_REGISTRY.get("CIFAR100")
    facts = dataclasses.replace(cls.info, counts=(200, 0, 200))
    monkeypatch.setattr(cls, "info", facts)
    assert build("CIFAR100").comparable is True
    monkeypatch.setattr(cls, "info", dataclasses.replace(facts, class_folders="0" * 16))
    with pytest.warns(UserWarning, match="not the official one: other class folders"):
        assert build("CIFAR100").comparable is False


def message(build: Build, name: str) -> str:
    with pytest.raises(DataError) as caught:
        build(name)
    return str(caught.value)


def test_what_is_missing_is_named(build: Build, tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet"
    assert f"TinyImageNet: expected images in {root}" in message(build, "TinyImageNet")
    touch(root, folders("TinyImageNet", "train"))
    text = message(build, "TinyImageNet")
    assert f"{root}/val does not exist; expected one folder per class there, such as n01443537" in text
    assert f"Run `python -m advpt prepare tiny_imagenet --root {tmp_path}`" in text
    touch(root, [f"val/images/val_{n}.JPEG" for n in range(3)])
    assert f"{root}/val has no class folders" in message(build, "TinyImageNet")
    touch(root, folders("TinyImageNet", "val"))
    with pytest.warns(UserWarning, match="val: 1 folders are no classes and are left out: images"):
        build("TinyImageNet")
    for path in (root / "val" / "n01443537").iterdir():
        path.unlink()
    assert f"1 of 200 class folders in {root}/val hold no image: n01443537" in message(build, "TinyImageNet")
    (root / "val" / "n01443537").rmdir()
    text = message(build, "TinyImageNet")
    assert "only one of the two parts in" in text and "has the class folders n01443537." in text
    touch(root, ["val/n99999999/a.JPEG"])
    assert "1 class folders without a class name: n99999999. Expected the 200 classes" in message(build, "TinyImageNet")


def test_class_names_of_a_file_in_the_folder_are_imagenets_alone(build: Build, tmp_path: Path) -> None:
    touch(tmp_path / "cifar10" / "images", folders("CIFAR10", "train", "test"))
    (tmp_path / "cifar10" / "classnames.txt").write_text("n01440764 x\n")
    assert build("CIFAR10").classnames[0] == "airplane"


def test_caltech_256_is_tested_whole(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "caltech-256" / "256_ObjectCategories"
    names = list(classnames.shipped(catalog.get("caltech256")))
    touch(images, (f"{name}/{name[:3]}_000{k}.jpg" for name in names for k in (1, 2)))
    cls = DATASET_REGISTRY.get("Caltech256")
    monkeypatch.setattr(cls, "info", dataclasses.replace(cls.info, counts=(0, 0, 514)))
    data = build("Caltech256", shots=1, subsample="base")
    assert [item.label for item in data.test] == [label for label in range(257) for _ in range(2)]
    assert data.comparable is True and data.train_x is data.test
    assert data.classnames[:2] == ["ak47", "american flag"] and data.classnames[-1] == "clutter"
    assert "every image of it is tested" in data.no_training
