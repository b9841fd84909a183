"""Opening every image of a data set, in parallel, to find the bad ones before a training run does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from advpt.data import layout, verify
from advpt.data.facts import DatasetFacts
from advpt.data.images import as_rgb

Bad = tuple[str, str]  # path relative to the data set's folder, and what is wrong with it


def images(facts: DatasetFacts, folder: Path) -> list[str]:
    """The images a run would read, relative to the data set's folder; those that are not there are left out.

    Raises:
        DataError: if the lists are missing or damaged.
    """
    there = {path for path, _ in layout.walk_parts(facts, folder)}
    if not layout.has_lists(facts):
        return sorted(there)
    named = layout.listed_paths(facts, layout.listed(facts, folder)).values()
    return sorted(path for paths in named for path in paths if path in there or (folder / path).is_file())


def bad_images(folder: Path, paths: Sequence[str], workers: int = 0) -> list[Bad]:
    """Those of ``paths`` that a run could not read, with the reason. By content, never by suffix.

    Args:
        workers: threads (Pillow decodes outside Python's lock); 0 for one per core.
    """
    with (
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
        tqdm(total=len(paths), desc="decode", unit="image", disable=None) as bar,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        bad = []
        for path, trouble in zip(paths, pool.map(partial(trouble_with, folder), paths, chunksize=16)):
            bar.update()
            if trouble:
                bad.append((path, trouble))
    return bad


def trouble_with(folder: Path, path: str) -> str:
    """Why an image cannot be used; "" if it can."""
    try:
        with (folder / path).open("rb") as file:
            head = file.read(64)
            if not head:
                return "empty (0 bytes)"
            if verify.is_page(head):
                return "a web page, not an image"
            file.seek(0)
            with Image.open(file) as image:
                as_rgb(image)
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise many kinds for damaged files
        return " ".join(str(error).split())[:200] or type(error).__name__
    return ""
