"""The real split files through the data set classes: counts, base/new sizes, golden few-shot digests."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from dassl.data.datasets import DatasetBase

from advpt.data import catalog, split
from tests.helpers.dataset_trees import Build, tree

GOLDEN = {
    "OxfordPets": ((592, "711e62ca7ba4bf69"), (148, "b75fc02100f37a51"), 19),
    "DescribableTextures": ((752, "daf3b28e531fbc4b"), (188, "9ef81bd9b8f31885"), 24),
    "Caltech101": ((1600, "e60a836bd33cbba3"), (400, "53555d3fce94587d"), 50),
    "StanfordCars": ((3136, "f7d56096c7921e7a"), (784, "edeb0808f53c4619"), 98),
}


@pytest.fixture(scope="module", params=sorted(GOLDEN))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def root(name: str, test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty files under the real names, and the real split file."""
    facts = catalog.get(name)
    assert facts.split is not None
    source = test_data / "splits" / facts.split.filename
    if not source.is_file():
        pytest.skip(f"{source} is not here")
    folder = tmp_path_factory.mktemp(name)
    made = tree(folder, name, json.loads(source.read_bytes()), write_split=False)
    shutil.copy(source, made)
    return folder


def digest(items: list[Any], images: str) -> str:
    paths = [str(Path(item.impath).relative_to(images)) for item in items]
    return hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]


def test_the_whole_official_set(build: Build, root: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = build(name, root)
    facts = catalog.get(name)
    assert facts.split is not None
    assert (len(data.train_x), len(data.val), len(data.test)) == facts.counts
    assert data.num_classes == len(data.classnames) == facts.classes
    assert data.comparable is True
    assert data.split_digest == facts.split.content
    assert not (root / facts.folder / "split_fewshot").exists()


def test_golden_few_shots_whatever_was_drawn_before(build: Build, root: Path, name: str) -> None:
    train, val, _ = GOLDEN[name]
    for noise in (0, 99):
        random.seed(noise)
        data = build(name, root, shots=16, seed=1)
        assert (len(data.train_x), digest(data.train_x, data.image_dir)) == train
        assert (len(data.val), digest(data.val, data.image_dir)) == val


def test_the_same_subset_as_dassls_own_sampling(build: Build, root: Path, name: str) -> None:
    whole = build(name, root)
    random.seed(2)
    train = DatasetBase.generate_fewshot_dataset(whole, whole.train_x, num_shots=2)
    val = DatasetBase.generate_fewshot_dataset(whole, whole.val, num_shots=2)
    ours = build(name, root, shots=2, seed=2)
    assert [item.impath for item in ours.train_x] == [item.impath for item in train]
    assert [item.impath for item in ours.val] == [item.impath for item in val]


def test_base_and_new_halves(build: Build, root: Path, name: str) -> None:
    base = build(name, root, shots=1, subsample="base")
    new = build(name, root, shots=1, subsample="new")
    whole = build(name, root, shots=1)
    n_base = GOLDEN[name][2]
    assert (base.num_classes, new.num_classes) == (n_base, catalog.get(name).classes - n_base)
    assert base.classnames + new.classnames == whole.classnames
    assert len(base.test) + len(new.test) == len(whole.test)
    in_base = set(whole.classnames[:n_base])  # not every list is in the order of its labels
    for half, wanted in ((base, True), (new, False)):
        kept = [i.impath for i in whole.train_x if (i.classname in in_base) is wanted]
        assert [i.impath for i in half.train_x] == kept


def test_a_reformatted_official_split_is_still_official(build: Build, root: Path, name: str) -> None:
    facts = catalog.get(name)
    assert facts.split is not None
    path = root / facts.folder / facts.split.filename
    original = path.read_bytes()
    try:
        path.write_text(json.dumps(json.loads(original)))
        assert build(name, root, shots=1).comparable is True
        altered = json.loads(original)
        altered["test"] = altered["test"][1:]
        path.write_text(json.dumps(altered))
        with pytest.warns(UserWarning, match="not the official split"):
            assert build(name, root, shots=1).comparable is False
    finally:
        path.write_bytes(original)


def test_the_sample_of_real_pets_is_marked(build: Build, test_data: Path, tmp_path: Path) -> None:
    source = test_data / "pets_sample" / "oxford_pets"
    folder = tmp_path / "oxford_pets"
    folder.mkdir()
    (folder / "images").symlink_to(source / "images")
    shutil.copyfile(source / "split_zhou_OxfordPets.json", folder / "split_zhou_OxfordPets.json")
    with pytest.warns(UserWarning, match="not the official split of OxfordPets.*185 / 37 / 148"):
        data = build("OxfordPets", shots=4)
    assert data.comparable is False
    assert data.split_digest == split.read(source / "split_zhou_OxfordPets.json")[0].digest()
    assert (len(data.train_x), len(data.val), len(data.test)) == (4 * 37, 37, 148)
    assert data.num_classes == 37
    assert data.classnames[0] == "abyssinian"
