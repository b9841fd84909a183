"""ImageNet and its four variants from trees of empty files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from dassl.data.datasets import DATASET_REGISTRY

import datasets.imagenet
from advpt.data import catalog, imagenet, zero_shot
from advpt.errors import ConfigError, DataError
from datasets.imagenet import ImageNetVariant
from tests.helpers.dataset_trees import Build, touch

NAMES = imagenet.shipped_names()
WNIDS = list(NAMES)[2:6]
VARIANTS = [
    name
    for name in catalog.names()
    if catalog.get(name).class_folders and issubclass(DATASET_REGISTRY.get(name), ImageNetVariant)
]

pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Four classes, five train and three val images each; made in reverse order."""
    images = tmp_path / "imagenet" / "images"
    for k, wnid in reversed(list(enumerate(WNIDS))):
        touch(images, (f"train/{wnid}/{wnid}_{i}.JPEG" for i in (4, 0, 3, 1, 2)))
        touch(images, (f"val/{wnid}/ILSVRC2012_val_{100 * k + i:08d}.JPEG" for i in range(3)))
    return images


def message(build: Build, name: str = "ImageNet", **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        build(name, **options)
    return str(caught.value)


def test_names_labels_and_order(build: Build, small: Path) -> None:
    data = build("ImageNet")
    assert data.classnames == [NAMES[wnid] for wnid in WNIDS]
    assert data.classnames[0] == "great white shark"
    assert [Path(item.impath).name for item in data.train_x[:5]] == [f"{WNIDS[0]}_{i}.JPEG" for i in range(5)]
    assert [item.label for item in data.test] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert data.val is data.test
    assert data.comparable is False, "four classes are not the official set"


def test_few_shots_are_the_same_wherever_the_files_came_from(
    build: Build, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build("ImageNet", shots=2, seed=1)
    assert [item.label for item in first.train_x] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(first.test) == 12
    entries = imagenet.listing.entries_of
    monkeypatch.setattr(imagenet.listing, "entries_of", lambda path: list(entries(path))[::-1])
    again = build("ImageNet", shots=2, seed=1)
    assert [i.impath for i in first.train_x] == [i.impath for i in again.train_x]
    new = build("ImageNet", shots=2, subsample="new")
    assert new.classnames == [NAMES[wnid] for wnid in WNIDS[2:]]


def test_the_test_subset(build: Build, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = build("ImageNet", test_subset="paper1000")
    assert [item.label for item in data.test] == [0, 1, 2, 3]
    assert data.val is data.test
    assert "authors' list is not public" in capsys.readouterr().out
    assert data.split_digest == build("ImageNet", test_subset="all").split_digest
    with pytest.raises(ConfigError, match="TEST_SUBSET 'paper100'. Did you mean 'paper1000'"):
        build("ImageNet", test_subset="paper100")


def test_robustbench_images_are_the_first_of_its_list_in_its_order(
    build: Build, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = [f"{WNIDS[k]}/ILSVRC2012_val_{100 * k + i:08d}.JPEG" for k, i in ((2, 1), (0, 2), (0, 0), (3, 2))]
    monkeypatch.setattr(imagenet, "robustbench_images", lambda: (*listed, "n01440764/ILSVRC2012_val_00000000.JPEG"))
    monkeypatch.setattr(datasets.imagenet, "ROBUSTBENCH", {"robustbench5000": 4, "robustbench1000": 2})
    whole, first = (build("ImageNet", test_subset=name) for name in ("robustbench5000", "robustbench1000"))
    assert [item.impath.split("/val/")[1] for item in whole.test] == listed
    assert [item.label for item in whole.test] == [2, 0, 0, 3]
    assert [item.impath for item in first.test] == [item.impath for item in whole.test[:2]]
    assert whole.classnames == build("ImageNet").classnames and whole.val is whole.test
    assert "the first 4 images of RobustBench's list, in its order" in capsys.readouterr().out
    monkeypatch.setattr(datasets.imagenet, "ROBUSTBENCH", {"robustbench5000": 5})
    absent = "1 of the 5 images of DATASET.TEST_SUBSET robustbench5 are not in images/: val/n01440764/ILSVRC2012_val_0"
    assert absent in message(build, test_subset="robustbench5000")
    with pytest.raises(ConfigError, match="only ImageNet has some: paper1000, robustbench5000, robustbench1000"):
        build("ImageNetV2", test_subset="robustbench1000")


def test_without_train_only_the_tecoa_protocol_reads_it(
    build: Build, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_train = build("ImageNet", PROTOCOL="tecoa")
    assert len(with_train.train_x) == 20 and not with_train.no_training
    (small / "train").rename(tmp_path / "away")
    data = build("ImageNet", PROTOCOL="tecoa", test_subset="paper1000")
    assert len(data.test) == 4 and data.classnames == with_train.classnames and data.no_training
    assert data.classnames == [zero_shot.first_synonyms()[wnid] for wnid in WNIDS]
    monkeypatch.setattr(imagenet, "robustbench_images", lambda: (f"{WNIDS[2]}/ILSVRC2012_val_00000200.JPEG",))
    some = build("ImageNet", PROTOCOL="tecoa", test_subset="robustbench1000")
    assert [item.label for item in some.test] == [2] and some.classnames == data.classnames, "all classes have a prompt"
    assert f"{small}/train does not exist" in message(build)


def test_listing_is_kept_only_for_official_counts_and_dropped_when_a_folder_changes(
    build: Build, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = small.parent / "listing_advpt.json"
    with pytest.warns(UserWarning, match="4 classes instead of 1,000; 20 / 0 / 12 images .* instead of 1,281,167"):
        build("ImageNet")
    assert not kept.exists()
    cls = DATASET_REGISTRY.get("ImageNet")
    digest = imagenet.folders_digest(WNIDS)
    small_facts = dataclasses.replace(cls.info, classes=4, counts=(20, 0, 12), class_folders=digest)
    monkeypatch.setattr(cls, "info", small_facts)
    first = build("ImageNet")
    assert first.comparable is True
    assert build("ImageNet", test_subset="paper1000").comparable is False
    content = json.loads(kept.read_text())
    assert sum(map(len, content["images"]["train"].values())) == 20

    def fail(*_: object) -> None:
        pytest.fail("the kept listing was not used")

    with monkeypatch.context() as patched:
        patched.setattr(imagenet, "list_images", fail)
        assert [i.impath for i in build("ImageNet").train_x] == [i.impath for i in first.train_x]
    touch(small, [f"train/{WNIDS[0]}/new.JPEG"])
    with pytest.warns(UserWarning, match="21 / 0 / 12 images"):
        assert build("ImageNet").comparable is False
    kept.write_text("{")
    (small / "train" / WNIDS[0] / "new.JPEG").unlink()
    assert build("ImageNet").comparable is True
    assert json.loads(kept.read_text())["format"] == 1


def test_val_that_is_not_sorted_into_folders(build: Build, small: Path) -> None:
    for wnid in WNIDS:
        for path in (small / "val" / wnid).iterdir():
            path.rename(small / "val" / path.name)
        (small / "val" / wnid).rmdir()
    text = message(build)
    assert f"{small}/val has 12 files and no class folders; expected one folder per class there" in text
    assert f"Run `python -m advpt prepare imagenet --root {small.parents[1]}`" in text
    assert not (small.parent / "listing_advpt.json").exists()


def test_inner_archives_that_are_not_unpacked(build: Build, small: Path, tmp_path: Path) -> None:
    (small / "train").rename(tmp_path / "away")
    assert f"{small}/train does not exist" in message(build)
    touch(small / "train", (f"{wnid}.tar" for wnid in WNIDS))
    assert "holds 4 .tar files, one per class, that are not unpacked" in message(build)


def test_kaggles_wrapped_layout(build: Build, tmp_path: Path) -> None:
    for where in ("imagenet/images", "imagenet", "."):
        root = tmp_path / where.replace("/", "_")
        touch(root / where / "ILSVRC" / "Data" / "CLS-LOC", ["train/n01440764/a.JPEG"])
        assert "ILSVRC/Data/CLS-LOC: this is Kaggle's wrapped layout" in message(build, root=root)


def test_stray_and_hidden_folders_are_left_out(build: Build, small: Path) -> None:
    touch(small, ["train/tmp/a.jpg", "train/.ipynb_checkpoints/a.jpg", "train/LICENSE", "val/Thumbs.db"])
    touch(small, [f"train/{WNIDS[0]}/._x.JPEG", f"train/{WNIDS[0]}/Thumbs.db"])
    with pytest.warns(UserWarning, match="train: 1 folders are no classes and are left out: tmp"):
        data = build("ImageNet")
    assert (len(data.train_x), len(data.test)) == (20, 12)
    assert data.warnings == ["train: 1 folders are no classes and are left out: tmp"]


def test_files_that_are_left_out_are_named_every_time(build: Build, small: Path, monkeypatch) -> None:
    """Also where the count is official: a listing that is kept would not say it again."""
    touch(small, [f"train/{WNIDS[0]}/x.heic", f"val/{WNIDS[1]}/more/y.JPEG", "val/loose.JPEG"])
    cls = DATASET_REGISTRY.get("ImageNet")
    digest = imagenet.folders_digest(WNIDS)
    monkeypatch.setattr(cls, "info", dataclasses.replace(cls.info, classes=4, counts=(20, 0, 13), class_folders=digest))
    for _ in range(2):
        with pytest.warns(UserWarning, match="train: 1 files in class folders are left out"):
            data = build("ImageNet")
        assert data.comparable is True and len(data.test) == 13
        assert [text.split(";")[0] for text in data.warnings] == [
            "train: 1 files in class folders are left out",
            "val: 1 images beside the class folders are left out: loose.JPEG",
            f"val: 1 images lie in folders inside a class folder and are read as images of that class: "
            f"{WNIDS[1]}/more/y.JPEG",
        ]


def test_another_imagenet_a_lost_class_and_an_empty_class(build: Build, small: Path) -> None:
    touch(small, ["train/n99999999/a.JPEG"])
    assert "1 class folders without a class name: n99999999" in message(build)
    (small / "train" / "n99999999" / "a.JPEG").unlink()
    (small / "train" / "n99999999").rmdir()
    for path in (small / "val" / WNIDS[1]).iterdir():
        path.unlink()
    assert f"1 of 4 class folders in {small}/val hold no image: {WNIDS[1]}" in message(build)
    (small / "val" / WNIDS[1]).rmdir()
    text = message(build)
    assert f"only in one of them: {WNIDS[1]}" in text


def test_other_class_names_are_used_with_a_warning(build: Build, small: Path) -> None:
    lines = [f"{wnid} {name}" for wnid, name in NAMES.items()]
    path = small.parent / "classnames.txt"
    path.write_text("\n".join(lines))
    build("ImageNet")
    lines[2] = "n01484850 white shark"
    path.write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="1 of 1000 names differ"):
        assert build("ImageNet").classnames[0] == "white shark"


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_have_labels_of_their_own(build: Build, tmp_path: Path, name: str) -> None:
    facts = catalog.get(name)
    images = tmp_path / facts.folder / facts.image_dir
    wnids = [WNIDS[3], WNIDS[1]]
    touch(images, [*(f"{wnid}/{i}.jpg" for wnid in wnids for i in range(2)), "README.txt", "LICENSE", "x.tar"])
    data = build(name, shots=1, subsample="base")
    assert data.classnames == [NAMES[WNIDS[1]], NAMES[WNIDS[3]]]
    assert [item.label for item in data.test] == [0, 0, 1, 1]
    assert data.train_x is data.test
    assert data.comparable is False and data.warnings == []
    touch(images, [f"{wnids[0]}/notes.txt", "tmp/x.jpg"])
    with pytest.warns(UserWarning, match="1 files in class folders are left out.*: " + f"{wnids[0]}/notes.txt"):
        assert len(build(name).warnings) == 2
    with pytest.raises(ConfigError, match="has no test subsets"):
        build(name, test_subset="paper1000")


def test_official_counts_of_a_variant_are_comparable(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "imagenet-adversarial" / "imagenet-a", (f"{wnid}/a.jpg" for wnid in WNIDS))
    cls = DATASET_REGISTRY.get("ImageNetA")
    digest = imagenet.folders_digest(WNIDS)
    facts = dataclasses.replace(cls.info, classes=4, counts=(0, 0, 4), class_folders=digest)
    monkeypatch.setattr(cls, "info", facts)
    assert build("ImageNetA").comparable is True
    monkeypatch.setattr(cls, "info", dataclasses.replace(facts, class_folders="0" * 16))
    with pytest.warns(UserWarning, match="not the official one: other class folders"):
        assert build("ImageNetA").comparable is False
