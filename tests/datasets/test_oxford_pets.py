"""CoOp-style data set files in ``datasets/`` find the helpers that CoOp's own files give each other."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from dassl.data.datasets import DATASET_REGISTRY, Datum

from advpt.errors import DataError
from tests.helpers.dataset_trees import Build, touch

FILE = Path(__file__).parents[1] / "helpers" / "coop_style_sets.py"
NAMES = ("CoOpStyleFolders", "CoOpStyleLists", "CoOpStyleVariant")


@pytest.fixture(scope="module", autouse=True)
def dropped_in() -> Iterator[None]:
    """The file is imported as a module of the package ``datasets``, as if it lay there."""
    spec = importlib.util.spec_from_file_location("datasets.coop_style_sets", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield
    del sys.modules[spec.name]
    for name in NAMES:
        DATASET_REGISTRY._items.pop(name)


def labels(items: list[Datum]) -> Counter[tuple[int, str]]:
    return Counter((item.label, item.classname) for item in items)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    sizes = {"BACKGROUND": 9, "annual": 10, "forest": 20, "highway": 11}
    images = tmp_path / "style_folders" / "images"
    touch(images, (f"{name}/{i:02d}.jpg" for name, n in sizes.items() for i in range(n)))
    touch(images, (".DS_Store", "annual/._00.jpg", "annual/Thumbs.db"))
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*not the official split")
def test_one_folder_per_class(folders: Path, build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    random.seed(1)
    data = build("CoOpStyleFolders", shots=2)
    printed = capsys.readouterr().out
    split_path = folders / "style_folders" / "split_style_folders.json"
    assert f"Saved split to {split_path}" in printed
    saved = json.loads(split_path.read_text())
    named = {(0, "annual"), (1, "forest"), (2, "Highway or Road")}
    assert {part: Counter(row[1] for row in rows) for part, rows in saved.items()} == {
        "train": {0: 5, 1: 10, 2: 6},  # round(11 x 0.5) is 6: halves go to the even number
        "val": {0: 2, 1: 4, 2: 2},
        "test": {0: 3, 1: 6, 2: 3},
    }
    paths = [row[0] for rows in saved.values() for row in rows]
    assert len(set(paths)) == 41 and all((folders / "style_folders" / "images" / path).is_file() for path in paths)
    assert [row[0] for row in saved["train"] if row[1] == 1] != sorted(row[0] for row in saved["train"] if row[1] == 1)
    assert labels(data.train_x) == dict.fromkeys(named, 2) and data.classnames == [
        "annual",
        "forest",
        "Highway or Road",
    ]

    before = {part: [item.impath for item in getattr(data, part)] for part in ("train_x", "val", "test")}
    again = build("CoOpStyleFolders", shots=2)  # from the split and the few-shot list that were made
    assert {part: [item.impath for item in getattr(again, part)] for part in before} == before
    random.seed(1)
    split_path.unlink()
    build("CoOpStyleFolders")
    assert json.loads(split_path.read_text()) == saved  # the run's seed decides
    new = build("CoOpStyleFolders", subsample="new")
    assert labels(new.test) == {(0, "Highway or Road"): 3}


def test_a_split_made_here_is_warned_about(folders: Path, build: Build) -> None:
    with pytest.warns(UserWarning, match=r"split_style_folders\.json was made here and is not the official split"):
        build("CoOpStyleFolders")


@pytest.mark.filterwarnings("ignore:.*not the official split")
def test_val_is_cut_from_trainval(tmp_path: Path, build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "style_lists"
    for part, n in (("trainval", 10), ("test", 3)):
        rows = [(f"{name}_{part}_{i}.jpg", label) for label, name in enumerate(("pug", "beagle")) for i in range(n)]
        touch(folder / "images", (path for path, _ in rows))
        (folder / f"{part}.txt").write_text("".join(f"{path} {label}\n" for path, label in rows))
    data = build("CoOpStyleLists")
    assert "Splitting trainval into 80% train and 20% val" in capsys.readouterr().out
    assert labels(data.train_x) == {(0, "pug"): 8, (1, "beagle"): 8}
    assert labels(data.val) == {(0, "pug"): 2, (1, "beagle"): 2}
    assert not {item.impath for item in data.train_x} & {item.impath for item in data.val}
    again = build("CoOpStyleLists")
    assert [item.impath for item in again.train_x] == [item.impath for item in data.train_x]


def test_a_variant_of_imagenet(tmp_path: Path, build: Build) -> None:
    folder = tmp_path / "style_variant"
    touch(folder / "images", ("n01440764/a.jpg", "n01443537/b.jpg", "n01443537/c.jpg"))
    (folder / "classnames.txt").write_text("n01443537 goldfish\nn01440764 tench fish \n\n")
    data = build("CoOpStyleVariant")
    assert data.classnames == ["tench fish", "goldfish"] and len(data.test) == 3


def test_classes_and_paths_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    from datasets.dtd import DescribableTextures
    from datasets.oxford_pets import OxfordPets

    touch(tmp_path, ("small/0.jpg", "small/1.jpg", "elsewhere.jpg"))
    with pytest.raises(DataError, match=r"small has 2 images, too few to give train, val and test their parts"):
        DescribableTextures.read_and_split_data(str(tmp_path))
    one = [Datum(impath=str(tmp_path / "elsewhere.jpg"), label=3, classname="owl")]
    with pytest.raises(DataError, match=r"class 3 \(owl\) has 1 images, too few"):
        OxfordPets.split_trainval(one)
    with pytest.raises(DataError, match=r"elsewhere\.jpg is not below"):
        OxfordPets.save_split(one, [], one, str(tmp_path / "s.json"), str(tmp_path / "small"))
    assert not (tmp_path / "s.json").exists()
