"""scikit-learn's handwritten digits as image files: 1,797 real 8x8 scans (UCI), written at first use."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from advpt import files
from advpt.data import catalog
from advpt.data.rendered import DIGIT_NAMES
from advpt.data.split import Row, Split
from advpt.errors import DataError

DIGITS = catalog.get("Digits")
RULE = "advpt-digits-1"  # version of the splitting rule; it is the seed of the ranking below
SPLIT_NAME = "split_advpt_Digits.json"


def split() -> Split:
    """The fixed split: 897 train, 300 val, 600 test.

    Per class, images are ranked by the SHA-256 of ``<rule>:<index>`` (so no library's random generator
    decides); the first go to test, the next to val, the rest to train. How many per class follows the class
    sizes, rounded by largest remainder so that the totals are exact. Lists are in order of label, then index.
    """
    labels = np.asarray(load_digits().target)
    members = [np.flatnonzero(labels == label).tolist() for label in range(DIGITS.classes)]
    sizes = [len(indices) for indices in members]
    _, n_val, n_test = DIGITS.counts
    tests, vals = _shares(n_test, sizes), _shares(n_val, sizes)
    train: list[Row] = []
    val: list[Row] = []
    test: list[Row] = []
    for label, indices in enumerate(members):
        ranked = sorted(indices, key=lambda i: hashlib.sha256(f"{RULE}:{i}".encode()).digest())
        cut, end = tests[label], tests[label] + vals[label]
        for part, chosen in ((test, ranked[:cut]), (val, ranked[cut:end]), (train, ranked[end:])):
            part.extend((_path(i, label), label, DIGIT_NAMES[label]) for i in sorted(chosen))
    return Split(tuple(train), tuple(val), tuple(test))


def prepare(root: Path) -> Path:
    """Write images and split file under ``<root>/digits`` unless they are there; returns that folder.

    A set is renamed into place only when it is complete, so this can be called twice, and by two processes
    at once.

    Raises:
        DataError: if the folder cannot be written.
    """
    folder = root / DIGITS.folder
    try:
        if not (folder / DIGITS.image_dir).is_dir():
            _write_images(folder)
        split_file = folder / SPLIT_NAME
        if not split_file.is_file():
            files.write_text(split_file, split().as_text())
    except OSError as error:
        raise DataError(f"Digits: cannot write the images under {folder} ({error}). Give a writable --root") from error
    return folder


def _write_images(folder: Path) -> None:
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    with files.atomic_folder(folder / DIGITS.image_dir) as partial:
        for name in DIGIT_NAMES:
            (partial / name).mkdir()
        for index, (image, label) in enumerate(zip(pixels, digits.target.tolist(), strict=True)):
            Image.fromarray(image, mode="L").save(partial / _path(index, label), optimize=False)


def _path(index: int, label: int) -> str:
    return f"{DIGIT_NAMES[label]}/{index:04d}.png"


def _shares(total: int, sizes: list[int]) -> list[int]:
    """``total`` shared in proportion to ``sizes``, the rest after rounding to the largest remainders."""
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-(total * sizes[i] % whole), i))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares
