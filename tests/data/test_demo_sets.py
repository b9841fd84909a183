"""The demo's own data sets: made at first use, the same every time, whole or not there."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advpt.data import demo_sets
from advpt.data.split import Split
from advpt.errors import DataError


def small(made: demo_sets.MadeSet, every: int) -> demo_sets.MadeSet:
    """The same with a few images."""
    parts = [rows[::every] for rows in made.split().parts().values()]
    return dataclasses.replace(made, split=lambda: Split(*parts))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_counts_and_classes() -> None:
    for made in (demo_sets.RENDERED, demo_sets.NOISY, demo_sets.ROTATED):
        assert made.split().counts() == made.facts.counts
    rendered = demo_sets.RENDERED.split()
    assert Counter(label for _, label, _ in rendered.test) == dict.fromkeys(range(10), 40)
    assert demo_sets.NOISY.split().test == demo_sets.digits_split().test


def test_images_are_made_once_and_equal_everywhere(tmp_path: Path) -> None:
    made = small(demo_sets.RENDERED, 25)
    for root in (tmp_path / "a", tmp_path / "b"):
        demo_sets.prepare(made, root)
    paths = [row[0] for rows in made.split().parts().values() for row in rows]
    one, other = (tmp_path / x / "rendered_digits" / "images" for x in "ab")
    assert all(np.array_equal(pixels(one / p), pixels(other / p)) for p in paths)
    assert pixels(one / paths[0]).shape == (32, 32, 3) and len({pixels(one / p).tobytes() for p in paths}) == len(paths)
    before = (one / paths[0]).stat().st_mtime_ns
    demo_sets.prepare(made, tmp_path / "a")
    assert (one / paths[0]).stat().st_mtime_ns == before


def test_shifted_digits_are_the_test_digits_changed(tmp_path: Path) -> None:
    root = tmp_path
    for made in (small(demo_sets.NOISY, 100), small(demo_sets.ROTATED, 100)):
        folder = demo_sets.prepare(made, root)
        for row in made.split().test:
            real = np.asarray(demo_sets.handwritten(root, row).convert("RGB"), dtype=float)
            found = pixels(folder / "images" / row[0]).astype(float)
            assert found.shape == real.shape and 5 < np.abs(found - real).mean() < 128


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("a file")
    with pytest.raises(DataError, match="cannot write"):
        demo_sets.prepare(small(demo_sets.NOISY, 100), tmp_path)
