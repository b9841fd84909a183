"""Digits: the images and the split that are written at first use."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from advpt.data import catalog, demo_sets, split
from advpt.errors import DataError

SPLIT_NAME = "split_advpt_Digits.json"
SPLIT_SHA256 = "b1e3c3fbd1a357134dec3effc1d64ddc4435f1864a2367bc6155ea377a744de1"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    demo_sets.prepare(demo_sets.DIGITS, folder)
    return folder


def test_the_rule_has_not_drifted() -> None:
    facts = catalog.get("Digits")
    assert facts.split is not None
    assert demo_sets.digits_split().digest() == SPLIT_SHA256 == facts.split.content


def test_every_image_is_in_one_part_and_classes_are_balanced() -> None:
    whole = demo_sets.digits_split()
    assert whole.counts() == (897, 300, 600)
    paths = [row[0] for rows in whole.parts().values() for row in rows]
    assert len(set(paths)) == len(paths) == 1797
    sizes = Counter(int(label) for label in load_digits().target)
    for rows in whole.parts().values():
        for label, n in Counter(row[1] for row in rows).items():
            assert abs(n - len(rows) * sizes[label] / 1797) <= 1.5
        assert [row[1] for row in rows] == sorted(row[1] for row in rows)


def test_images_are_lossless_and_labels_right(root: Path) -> None:
    source = load_digits()
    whole = split.read(root / "digits" / SPLIT_NAME)[0]
    assert whole == demo_sets.digits_split()
    for rows in whole.parts().values():
        for path, label, name in rows:
            index = int(Path(path).stem)
            assert (label, name) == (source.target[index], demo_sets.DIGIT_NAMES[label])
            with Image.open(root / "digits" / "images" / path) as image:
                assert (image.mode, image.size, image.format) == ("L", (8, 8), "PNG")
                pixels = np.asarray(image)
            assert np.array_equal(np.rint(pixels * (16 / 255)), source.images[index])
            assert pixels.max() == np.rint(source.images[index].max() * 255 / 16)


def test_nothing_else_is_left_and_a_second_call_changes_nothing(root: Path) -> None:
    folder = root / "digits"
    assert {path.name for path in folder.iterdir()} == {"images", SPLIT_NAME}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    demo_sets.prepare(demo_sets.DIGITS, root)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_interrupted_writer_leaves_nothing_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def save(self: Image.Image, path: Path, **kwargs: object) -> None:
        if len(saved) == 500:
            raise KeyboardInterrupt
        saved.append(path)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt):
        demo_sets.prepare(demo_sets.DIGITS, tmp_path)
    assert not list((tmp_path / "digits").iterdir())
    monkeypatch.undo()
    demo_sets.prepare(demo_sets.DIGITS, tmp_path)
    assert len(list((tmp_path / "digits" / "images").glob("*/*.png"))) == 1797


def test_processes_at_once_end_with_one_complete_set(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=demo_sets.prepare, args=(demo_sets.DIGITS, tmp_path)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert {path.name for path in (tmp_path / "digits").iterdir()} == {"images", SPLIT_NAME}
    assert len(list((tmp_path / "digits" / "images").glob("*/*.png"))) == 1797
    assert set(json.loads((tmp_path / "digits" / SPLIT_NAME).read_text())) == {"train", "val", "test"}


def test_a_root_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Digits: cannot write the images under .*Give a writable --root"):
        demo_sets.prepare(demo_sets.DIGITS, tmp_path / "file")
