"""Opening every image of a data set, in parallel, to find the bad ones before a training run does."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm.contrib.concurrent import thread_map

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
    bar = {"desc": "decode", "unit": "image", "disable": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        look = partial(trouble_with, folder)
        troubles = thread_map(look, paths, max_workers=workers or os.cpu_count(), chunksize=16, **bar)
    return [(path, trouble) for path, trouble in zip(paths, troubles) if trouble]


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
