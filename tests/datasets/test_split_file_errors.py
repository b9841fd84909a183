"""What goes wrong with folders and split files, each situation made and its message read."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path

import pytest
from dassl.data.datasets import DATASET_REGISTRY
from yacs.config import CfgNode

from advpt.data import catalog
from advpt.errors import ConfigError, DataError
from tests.helpers.dataset_trees import Build, content, touch, tree

PETS = content([("Abyssinian_{}.jpg", "abyssinian"), ("pug_{}.jpg", "pug")])
SPLIT = "split_zhou_OxfordPets.json"


def message(build: Build, name: str = "OxfordPets", **options: object) -> str:
    with pytest.raises(DataError) as caught:
        build(name, **options)
    return str(caught.value)


def everything(root: Path) -> set[Path]:
    return set(root.rglob("*"))


def test_wrong_root_names_root_and_what_is_there_and_creates_nothing(build: Build, tmp_path: Path) -> None:
    for name in ("food-101", "photos", ".hidden"):
        (tmp_path / name).mkdir()
    before = everything(tmp_path)
    text = message(build, shots=4)
    assert text == (
        f"OxfordPets: expected images in {tmp_path}/oxford_pets/images. DATASET.ROOT is {tmp_path}; folders found "
        f"there: food-101, photos. Run `python -m advpt prepare pets --root {tmp_path}`, or give the folder above "
        "oxford_pets as --root"
    )
    assert everything(tmp_path) == before


def test_a_root_that_does_not_exist_is_said_so_and_not_made(build: Build, tmp_path: Path) -> None:
    assert f"DATASET.ROOT is {tmp_path}/no, which does not exist." in message(build, root=tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", [n for n in catalog.names() if n not in ("Digits", "ImageFolder")])
def test_every_set_says_where_it_belongs_and_how_to_get_it(build: Build, tmp_path: Path, name: str) -> None:
    facts = catalog.get(name)
    text = message(build, name)
    assert text.startswith(f"{name}: expected images in {tmp_path / facts.folder / facts.image_dir}. ")
    assert f"`python -m advpt prepare {facts.aliases[0]} --root {tmp_path}`" in text


@pytest.mark.parametrize(
    ("name", "found", "advice"),
    [
        ("OxfordPets", "oxford-iiit-pet/images/a.jpg", "torchvision's layout; rename or link oxford-iiit-pet"),
        ("OxfordFlowers", "flowers-102/jpg/a.jpg", "torchvision's layout; rename or link flowers-102"),
        ("DescribableTextures", "dtd/dtd/images/a.jpg", "torchvision's nested layout"),
        ("SUN397", "sun397/train/abbey/a.jpg", "needs the original tree SUN397/<letter>/<class>"),
        ("UCF101", "ucf101/UCF-101/YoYo/a.avi", "the middle frames are needed, not the videos"),
        ("UCF101", "UCF-101/YoYo/a.avi", "UCF-101-midframes.zip"),
        ("ImageNetR", "imagenet-r/n1/a.jpg", "into a folder imagenet-rendition"),
        ("ImageNet", "imagenet/ILSVRC/Data/CLS-LOC/train/n1/a.jpg", "Kaggle's wrapped layout"),
        ("ImageNetV2", "imagenetv2/imagenetv2-top-images-format-val/0/a.jpg", "matched-frequency.tar.gz is needed"),
        ("ImageNetV2", "imagenetv2/imagenetv2-threshold0.7-format-val/0/a.jpg", "another of the three V2 sets"),
        ("ImageNetSketch", "imagenet-sketch/sketch/n1/a.jpg", "rename it to images"),
        ("ImageNetA", "imagenet-a/n1/a.jpg", "into a folder imagenet-adversarial"),
        ("FGVCAircraft", "fgvc-aircraft-2013b/data/images/1.jpg", "to fgvc_aircraft"),
    ],
)
def test_known_other_layouts_are_recognised(build: Build, tmp_path: Path, name: str, found: str, advice: str) -> None:
    touch(tmp_path, [found])
    assert advice in message(build, name)


def test_a_missing_split_stops_and_no_random_one_is_made(build: Build, tmp_path: Path) -> None:
    tree(tmp_path, "OxfordPets", PETS, write_split=False)
    before = everything(tmp_path)
    text = message(build, shots=1)
    assert text.startswith(f"{SPLIT} is missing: expected at {tmp_path}/oxford_pets/{SPLIT}.")
    assert text.endswith(f"Run `python -m advpt prepare pets --root {tmp_path}`")
    assert everything(tmp_path) == before


def test_drives_quota_page_saved_as_the_split_is_recognised(build: Build, tmp_path: Path) -> None:
    folder = tree(tmp_path, "OxfordPets", PETS)
    (folder / SPLIT).write_text("\n<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>")
    text = message(build)
    assert str(folder / SPLIT) in text
    assert "Google Drive's 'quota exceeded' page" in text


def test_a_truncated_split_is_damaged_not_a_traceback(build: Build, tmp_path: Path) -> None:
    folder = tree(tmp_path, "OxfordPets", PETS)
    (folder / SPLIT).write_bytes((folder / SPLIT).read_bytes()[:300])
    assert "is not valid JSON" in message(build)
    assert "300 bytes" in message(build)


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_partly_missing_images_are_counted_and_the_first_five_named(build: Build, tmp_path: Path) -> None:
    folder = tree(tmp_path, "OxfordPets", PETS)
    for i in (0, 2, 3, 4, 5, 6):
        (folder / "images" / f"pug_{i}.jpg").unlink()
    text = message(build, shots=1)
    assert text.startswith(f"OxfordPets: 6 of 14 files listed in {SPLIT} are missing under {folder}/images, first 5: ")
    assert "pug_0.jpg, pug_2.jpg, pug_3.jpg, pug_4.jpg, pug_5.jpg. Run `python" in text
    assert text.endswith("--check`")
    assert not (folder / "split_fewshot").exists()


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_sun_cut_anew_by_a_mirror(build: Build, tmp_path: Path) -> None:
    sun = content([("a/abbey/sun_{}.jpg", "abbey"), ("b/bakery/shop/sun_{}.jpg", "shop bakery")])
    folder = tree(tmp_path, "SUN397", sun)
    (folder / "SUN397" / "a").rename(folder / "SUN397" / "train")
    text = message(build, "SUN397")
    assert "7 of 14 files listed in split_zhou_SUN397.json are missing" in text
    assert "Found sun397/SUN397/train: this is a copy cut anew" in text


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_upstreams_pickled_few_shots_are_never_opened(build: Build, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "exploded"),))  # type: ignore[return-value]

    folder = tree(tmp_path, "OxfordPets", PETS)
    cache = folder / "split_fewshot" / "shot_1-seed_1.pkl"
    cache.parent.mkdir()
    cache.write_bytes(pickle.dumps({"train": Bomb(), "val": []}))
    assert len(build("OxfordPets", shots=1).train_x) == 2
    assert not (tmp_path / "exploded").exists()


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_moved_data_need_no_new_list(build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "old", "OxfordPets", PETS)
    first = build("OxfordPets", root=tmp_path / "old", shots=1)
    (tmp_path / "old").rename(tmp_path / "moved")
    capsys.readouterr()
    second = build("OxfordPets", root=tmp_path / "moved", shots=1)
    assert "made anew" not in capsys.readouterr().out
    assert [Path(i.impath).name for i in first.train_x] == [Path(i.impath).name for i in second.train_x]
    assert all(Path(item.impath).is_file() for item in second.train_x)


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_a_list_of_another_split_is_made_anew_with_a_message(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tree(tmp_path, "OxfordPets", PETS)
    build("OxfordPets", shots=1)
    altered = {**PETS, "train": PETS["train"][1:]}
    (folder / SPLIT).write_text(json.dumps(altered))
    capsys.readouterr()
    data = build("OxfordPets", shots=1)
    path = folder / "split_fewshot" / "shot_1-seed_1.json"
    assert f"Few-shot list {path} was made anew: its split_sha256 is" in capsys.readouterr().out
    assert json.loads(path.read_text())["train"] == [Path(item.impath).name for item in data.train_x]


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_no_list_is_kept_without_a_seed_or_in_a_read_only_folder(build: Build, tmp_path: Path) -> None:
    folder = tree(tmp_path, "OxfordPets", PETS)
    build("OxfordPets", shots=1, seed=-1)
    folder.chmod(0o555)
    build("OxfordPets", shots=1, seed=1)
    folder.chmod(0o755)
    assert not (folder / "split_fewshot").exists()


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_a_list_that_cannot_be_written_is_a_warning(build: Build, tmp_path: Path) -> None:
    folder = tree(tmp_path, "OxfordPets", PETS)
    (folder / "split_fewshot").write_text("in the way")
    with pytest.warns(UserWarning, match="could not be written .*the run does not need it"):
        assert len(build("OxfordPets", shots=1).train_x) == 2


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_more_shots_than_images_take_all(build: Build, tmp_path: Path) -> None:
    tree(tmp_path, "OxfordPets", PETS)
    assert len(build("OxfordPets", shots=16).train_x) == 6


def test_unknown_options_are_answered_with_the_list(build: Build, tmp_path: Path) -> None:
    tree(tmp_path, "OxfordPets", PETS)
    with pytest.raises(ConfigError, match=r"SUBSAMPLE_CLASSES 'bases'\. Did you mean 'base'\? Known: all, base, new"):
        build("OxfordPets", subsample="bases")
    with pytest.raises(ConfigError, match="TEST_SUBSET is 'paper1000', but OxfordPets has no test subsets"):
        build("OxfordPets", test_subset="paper1000")


def test_a_configuration_of_a_foreign_checkout_lacks_our_keys(tmp_path: Path) -> None:
    tree(tmp_path, "OxfordPets", PETS)
    cfg = CfgNode({"SEED": 1, "DATASET": {"ROOT": str(tmp_path), "NUM_SHOTS": -1}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(DATASET_REGISTRY.get("OxfordPets")(cfg).test) == 4


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_home_is_expanded(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "OxfordPets", PETS)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build("OxfordPets", root=Path("~")).train_x[0].impath.startswith(str(tmp_path))


def test_aircraft_lists_missing_or_odd(build: Build, tmp_path: Path) -> None:
    folder = tree(tmp_path, "FGVCAircraft", {})
    assert f"variants.txt is missing: expected at {folder}/variants.txt" in message(build, "FGVCAircraft")
    (folder / "variants.txt").write_text("707-320\n")
    (folder / "images_variant_train.txt").write_text("0001 707-321\n")
    assert "images_variant_train.txt, line 1 is '0001 707-321'" in message(build, "FGVCAircraft")


def test_helpers_that_other_coop_files_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = DATASET_REGISTRY.get("OxfordPets")
    folder = tree(tmp_path, "OxfordPets", PETS)
    train, val, test = pets.read_split(str(folder / SPLIT), str(folder / "images"))
    assert (len(train), len(val), len(test)) == (6, 4, 4)
    assert pets.subsample_classes(train, test) == (train, test)
    assert capsys.readouterr().out == ""
    new_train, new_test = pets.subsample_classes(train, test, subsample="new")
    assert capsys.readouterr().out == "SUBSAMPLE NEW CLASSES!\n"
    assert {(item.label, item.classname) for item in new_train + new_test} == {(0, "pug")}
