"""What ``prepare`` lays out from an archive of the real name and layout loads through the registered class."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from dassl.data.datasets import DATASET_REGISTRY
from yacs.config import CfgNode

import datasets
from advpt.data import layout, manifest
from advpt.data.catalog import get
from advpt.data.facts import DatasetFacts, Part, SplitFacts
from advpt.data.prepare import Options, prepare
from tests.helpers.prepare import (
    EVERY,
    Server,
    Small,
    drive,
    everything,
    listed,
    network,
    options,
    picture,
    rows,
    small,
    solution,
    tarred,
    user_files,
    wnid_of,
    zipped,
)


def load(made: Small, root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The data set through its registered class; no warning may come."""
    cls = DATASET_REGISTRY.get(made.facts.name)
    monkeypatch.setattr(cls, "info", made.facts)
    cfg = CfgNode({"SEED": 1, "DATASET": {"NAME": made.facts.name, "ROOT": str(root), "NUM_SHOTS": -1}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return cls(cfg)


def asked_for(made: Small, folder: Path) -> Options:
    """Fetch what can be fetched; bring by hand what cannot."""
    given = user_files(made, folder, made.archives) if made.by_hand else ()
    return options(archives=given, network=network(drive=drive(made)))


@pytest.mark.parametrize("name", EVERY)
def test_fetched_laid_out_and_loaded(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = small(name, server)
    report = prepare(made.facts, tmp_path / "data", asked_for(made, tmp_path / "mine"))
    assert report.ok
    assert report.found == made.facts.counts
    data = load(made, tmp_path / "data", monkeypatch)
    if made.facts.split:
        assert [len(data.train_x), len(data.val), len(data.test)] == [6, 2, 4]
        assert data.classnames == [classname for _, classname in listed(name)[0]]
    assert len(data.test) == made.facts.counts[2]
    assert data.comparable is True
    folder = tmp_path / "data" / made.facts.folder
    assert not (folder / ".prepare").exists()
    assert not list(folder.rglob("._*"))
    if "classnames.txt" in made.facts.other:
        assert len((folder / "classnames.txt").read_text().splitlines()) == 1000


@pytest.mark.parametrize("name", EVERY)
def test_the_manifest_names_sources_hashes_counts_and_date(name: str, server: Server, tmp_path: Path) -> None:
    made = small(name, server)
    prepare(made.facts, tmp_path, asked_for(made, tmp_path / "mine"))
    record = manifest.manifest(tmp_path / made.facts.folder)
    assert record is not None
    assert record["dataset"] == name
    assert record["counts"] == dict(zip(("train", "val", "test"), made.facts.counts))
    assert record["classes"] == made.facts.classes
    assert record["date"][:2] == "20"
    assert record["versions"].keys() >= {"advpt", "python"}
    images = [entry for entry in record["sources"] if entry["what"] == "images"]
    assert [entry["file"] for entry in images] == [n for n in made.archives if "devkit" not in n]
    verified = {s.filename for s in made.facts.sources if s.md5 or s.sha256}
    assert {entry["file"] for entry in record["sources"] if entry["checked"]} >= verified
    assert str(tmp_path) not in (tmp_path / made.facts.folder / manifest.NAME).read_text()


def test_a_second_run_does_nothing_and_asks_nobody(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    prepare(made.facts, tmp_path, options())
    before, asked = everything(tmp_path), len(server.requests)
    assert prepare(made.facts, tmp_path, options()).ok
    assert (everything(tmp_path), len(server.requests)) == (before, asked)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    ("name", "layout_of_it"),
    [
        ("OxfordPets", "oxford-iiit-pet/images"),
        ("OxfordPets", "images"),
        ("OxfordPets", "oxford_pets/images"),
        ("OxfordFlowers", "flowers-102/jpg"),
        ("DescribableTextures", "dtd/dtd/images"),
        ("EuroSAT", "eurosat/2750"),
        ("SUN397", "SUN397"),
    ],
)
def test_from_a_folder_in_another_layout(
    name: str, layout_of_it: str, link: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small(name, server)
    theirs = tmp_path / "theirs"
    for path, data in _content(made).items():
        target = theirs / layout_of_it / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    before = everything(theirs)
    prepare(made.facts, tmp_path / "data", options(origin=theirs, link=link))
    load(made, tmp_path / "data", monkeypatch)
    images = tmp_path / "data" / made.facts.folder / made.facts.parts[0].target
    assert images.is_symlink() is link
    assert everything(theirs) == before
    assert server.requests == [(f"/github/{made.facts.split.filename}", "")]  # type: ignore[union-attr]


def _content(made: Small) -> dict[str, bytes]:
    parts = json.loads(made.split).values()
    return {row[0]: picture(i) for i, row in enumerate(row for part in parts for row in part)}


def test_from_the_images_folder_itself_and_from_a_folder_of_archives(server: Server, tmp_path: Path) -> None:
    made = small("ImageNetA", server)
    for wnid in ("a", "b"):
        (tmp_path / "data" / wnid).mkdir(parents=True)
    user_files(made, tmp_path / "mine")
    assert prepare(made.facts, tmp_path / "one", options(origin=tmp_path / "mine")).ok
    images = tmp_path / "one" / made.facts.folder / "imagenet-a"
    assert prepare(made.facts, tmp_path / "two", options(origin=images, link=True)).ok
    assert server.requests == []


def test_a_mirrors_zip_with_everything_in_it_needs_no_network(server: Server, tmp_path: Path) -> None:
    made = small("DescribableTextures")
    inside = {f"dtd/images/{path}": data for path, data in _content(made).items()}
    mirror = tmp_path / "dtd.zip"
    mirror.write_bytes(zipped({**inside, f"dtd/{made.facts.split.filename}": made.split}))  # type: ignore[union-attr]
    assert prepare(made.facts, tmp_path / "data", options(archives=(mirror,), offline=True)).ok
    record = manifest.manifest(tmp_path / "data" / "dtd")
    assert record is not None
    assert [entry["checked"] for entry in record["sources"] if entry["file"] == "dtd.zip"] == [[]]


def test_a_split_alone_is_fetched_when_the_images_are_there(server: Server, tmp_path: Path) -> None:
    made = small("EuroSAT", server)
    for path, data in _content(made).items():
        target = tmp_path / "eurosat" / "2750" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    assert prepare(made.facts, tmp_path, options()).ok
    assert server.requests == [("/github/split_zhou_EuroSAT.json", "")]


def test_a_random_split_that_coop_saved_under_the_official_name_is_set_aside(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    prepare(made.facts, tmp_path, options())
    name = "split_zhou_OxfordPets.json"
    other = made.split.replace(b"pug_0", b"pug_X").replace(b"pug_5", b"pug_0").replace(b"pug_X", b"pug_5")
    (tmp_path / "oxford_pets" / name).write_bytes(other)
    prepare(made.facts, tmp_path, options())
    assert (tmp_path / "oxford_pets" / name).read_bytes() == made.split
    assert (tmp_path / "oxford_pets" / "split_zhou_OxfordPets.not-official.json").read_bytes() == other


def test_a_split_of_another_text_but_the_same_content_is_accepted(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    server.put("github/split_zhou_OxfordPets.json", made.split.replace(b"    ", b" "))
    sized = tuple(dataclasses.replace(s, size=0) if s.what == "split" else s for s in made.facts.sources)
    assert made.facts.split is not None
    facts = dataclasses.replace(made.facts, sources=sized)
    assert prepare(facts, tmp_path, options()).ok


@pytest.mark.filterwarnings("ignore:.*not comparable")
def test_ones_own_set_as_datasets_md_says(tmp_path: Path) -> None:
    facts = DatasetFacts(
        name="Birds",
        aliases=("birds",),
        folder="birds",
        image_dir="images",
        classes=2,
        counts=(6, 2, 4),
        split=SplitFacts("split_birds.json"),
        parts=(Part("images"),),
    )
    Birds = datasets.class_for(facts)
    assert (Birds.__name__, Birds.dataset_dir) == ("Birds", "birds")
    content = rows([("owl/{}.jpg", "owl"), ("wren/{}.jpg", "wren")])
    for path in (row[0] for part in content.values() for row in part):
        target = tmp_path / "birds" / "images" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(picture())
    (tmp_path / "birds" / "split_birds.json").write_text(json.dumps(content))
    cfg = CfgNode({"SEED": 1, "DATASET": {"NAME": "Birds", "ROOT": str(tmp_path), "NUM_SHOTS": 1}})
    data = Birds(cfg)
    assert data.classnames == ["owl", "wren"]
    assert len(data.train_x) == 2
    assert prepare(facts, tmp_path, options()).ok
    marked = SplitFacts("split_birds.json", content=data.split_digest)
    assert datasets.class_for(dataclasses.replace(facts, split=marked))(cfg).comparable


# --- ImageNet -----------------------------------------------------------------------------------------------------


def test_imagenet_val_is_sorted_by_the_devkit(tmp_path: Path) -> None:
    made = small("ImageNet")
    prepare(made.facts, tmp_path, options(archives=user_files(made, tmp_path / "mine")))
    val = tmp_path / "imagenet" / "images" / "val"
    assert {path.name: path.parent.name for path in val.rglob("*.JPEG")} == {
        f"ILSVRC2012_val_{n:08d}.JPEG": wnid_of(n) for n in range(1, 9)
    }


def test_archives_in_the_data_sets_own_folder_are_found(tmp_path: Path) -> None:
    made = small("ImageNet")
    kept = user_files(made, tmp_path / "imagenet" / "images")
    assert prepare(made.facts, tmp_path, options()).ok
    assert all(path.is_file() for path in kept)


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
    assert prepare(made.facts, tmp_path, options()).ok
    assert (train / f"{wnid}.tar").is_file()


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
