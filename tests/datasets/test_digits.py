"""The embedded default as a data set of Dassl."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from advpt.data import catalog, rendered
from advpt.errors import DataError
from tests.helpers.dataset_trees import Build


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits_root")


def test_it_needs_nothing_but_a_root(build: Build, root: Path) -> None:
    data = build("Digits", root)
    assert (len(data.train_x), len(data.val), len(data.test)) == (897, 300, 600)
    assert data.classnames == list(rendered.DIGIT_NAMES)
    assert data.comparable is True
    facts = catalog.get("digits")
    assert facts.split is not None
    assert data.split_digest == facts.split.content
    assert all(Path(item.impath).parent.name == item.classname for item in data.test)


def test_shots_seeds_and_base_new_as_everywhere(build: Build, root: Path) -> None:
    data = build("Digits", root, shots=16, seed=1)
    assert Counter(item.label for item in data.train_x) == dict.fromkeys(range(10), 16)
    assert Counter(item.label for item in data.val) == dict.fromkeys(range(10), 4)
    assert len(data.test) == 600
    again, other = build("Digits", root, shots=16, seed=1), build("Digits", root, shots=16, seed=2)
    assert [i.impath for i in again.train_x] == [i.impath for i in data.train_x]
    assert [i.impath for i in other.train_x] != [i.impath for i in data.train_x]
    assert build("Digits", root, subsample="new").classnames == ["five", "six", "seven", "eight", "nine"]


def test_an_altered_split_is_marked(build: Build, tmp_path: Path) -> None:
    build("Digits")
    path = tmp_path / "digits" / "split_advpt_Digits.json"
    parts = json.loads(path.read_text())
    parts["train"][0], parts["test"][0] = parts["test"][0], parts["train"][0]
    path.write_text(json.dumps(parts))
    with pytest.warns(UserWarning, match="not the official split of Digits: its content SHA-256 is"):
        assert build("Digits").comparable is False


def test_lost_images_are_counted(build: Build, tmp_path: Path) -> None:
    build("Digits")
    (tmp_path / "digits" / "images" / "one" / "0001.png").unlink()
    with pytest.raises(DataError, match="1 of 1,797 files listed in split_advpt_Digits.json are missing"):
        build("Digits")
