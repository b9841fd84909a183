"""Every data set with a split file loads from a small tree in its own layout, with the right names and labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from advpt.data import catalog, split
from tests.helpers.dataset_trees import Build, Content, content, tree

# (path of an image with one {}, class name) as the real files have them; a set that is not here gets made-up ones
SAMPLES = {
    "OxfordPets": [("Abyssinian_{}.jpg", "abyssinian"), ("pug_{}.jpg", "pug"), ("beagle_{}.jpg", "beagle")],
    "OxfordFlowers": [
        ("image_0{}.jpg", "pink primrose"),
        ("image_1{}.jpg", "hard-leaved pocket orchid"),
        ("image_2{}.jpg", "canterbury bells"),
    ],
    "Food101": [("apple_pie/{}.jpg", "apple_pie"), ("ramen/{}.jpg", "ramen"), ("waffles/{}.jpg", "waffles")],
    "SUN397": [
        ("a/abbey/sun_{}.jpg", "abbey"),
        ("a/apartment_building/outdoor/sun_{}.jpg", "outdoor apartment_building"),
        ("b/bakery/shop/sun_{}.jpg", "shop bakery"),
    ],
    "DescribableTextures": [
        ("banded/banded_{}.jpg", "banded"),
        ("polka-dotted/polka-dotted_{}.jpg", "polka-dotted"),
        ("zigzagged/zigzagged_{}.jpg", "zigzagged"),
    ],
    "EuroSAT": [
        ("AnnualCrop/AnnualCrop_{}.jpg", "Annual Crop Land"),
        ("Forest/Forest_{}.jpg", "Forest"),
        ("Highway/Highway_{}.jpg", "Highway or Road"),
    ],
    "UCF101": [
        ("Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c0{}.jpg", "Apply_Eye_Makeup"),
        ("Handstand_Pushups/v_HandStandPushups_g24_c0{}.jpg", "Handstand_Pushups"),
        ("Yo_Yo/v_YoYo_g01_c0{}.jpg", "Yo_Yo"),
    ],
    "Caltech101": [
        ("airplanes/image_000{}.jpg", "airplane"),
        ("Faces/image_000{}.jpg", "face"),
        ("yin_yang/image_000{}.jpg", "yin_yang"),
    ],
    "StanfordCars": [
        ("cars_train/0000{}.jpg", "2000 AM General Hummer SUV"),
        ("cars_train/0001{}.jpg", "2012 Acura RL Sedan"),
        ("cars_test/0000{}.jpg", "2012 Fisker Karma Sedan"),
    ],
}
MADE_UP = [(f"{name}/{{}}.jpg", name) for name in ("first kind", "second kind", "third kind")]
WITH_SPLIT = [name for name in catalog.names() if catalog.get(name).split and catalog.get(name).sources]


def classes_of(name: str) -> list[tuple[str, str]]:
    return SAMPLES.get(name, MADE_UP)


@pytest.fixture(params=WITH_SPLIT)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def prepared(root: Path, name: str) -> Content:
    made = content(classes_of(name))
    tree(root, name, made)
    return made


def test_every_sample_is_of_a_set_of_the_catalogue() -> None:
    assert SAMPLES.keys() <= set(WITH_SPLIT)


def test_every_set_of_the_catalogue_is_registered_under_its_name() -> None:
    for name in catalog.names():
        cls = DATASET_REGISTRY.get(name)
        assert issubclass(cls, DatasetBase)
        assert cls.dataset_dir == catalog.get(name).folder


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_names_labels_and_paths(build: Build, tmp_path: Path, name: str) -> None:
    made = prepared(tmp_path, name)
    data = build(name)
    facts = catalog.get(name)
    images = tmp_path / facts.folder / facts.image_dir
    assert data.classnames == [classname for _, classname in classes_of(name)]
    assert data.num_classes == 3
    for part, items in (("train", data.train_x), ("val", data.val), ("test", data.test)):
        rows = [[str(Path(item.impath).relative_to(images)), item.label, item.classname] for item in items]
        assert rows == made[part]
        assert {item.domain for item in items} == {0}
    assert data.train_u is None
    assert data.dataset_dir == str(tmp_path / facts.folder)
    assert data.image_dir == str(images)


def test_an_altered_split_warns_with_both_hashes_and_is_not_comparable(build: Build, tmp_path: Path, name: str) -> None:
    made = prepared(tmp_path, name)
    facts = catalog.get(name)
    assert facts.split is not None
    with pytest.warns(UserWarning, match="not comparable") as caught:
        data = build(name)
    assert data.comparable is False
    assert data.split_digest == split.parse(made, "x").digest()
    if facts.split.git_blob:
        path = tmp_path / facts.folder / facts.split.filename
        message = str(caught[0].message)
        assert facts.split.git_blob in message
        assert split.git_blob(path.read_bytes()) in message


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_few_shots_and_base_and_new(
    build: Build, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, name)
    data = build(name, shots=1, subsample="base")
    assert "Creating a 1-shot dataset\nSUBSAMPLE BASE CLASSES!\n" in capsys.readouterr().out
    assert data.classnames == [classname for _, classname in classes_of(name)][:2]
    assert [item.label for item in data.train_x] == [0, 1] == [item.label for item in data.val]
    assert [item.label for item in data.test] == [0, 0, 1, 1]
    data = build(name, subsample="new")
    assert data.classnames == [classes_of(name)[2][1]]
    assert [item.label for item in data.train_x] == [0, 0, 0]
    lists = tmp_path / catalog.get(name).folder / "split_fewshot"
    assert [path.name for path in lists.iterdir()] == ["shot_1-seed_1.json"]
    assert len(json.loads((lists / "shot_1-seed_1.json").read_text())["train"]) == 3
