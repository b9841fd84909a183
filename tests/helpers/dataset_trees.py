"""Helpers that make small trees of empty files in the layout of a data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from advpt.data import catalog

Build = Callable[..., Any]
Content = dict[str, list[list[Any]]]


def touch(folder: Path, paths: Iterable[str]) -> None:
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()


def tree(root: Path, name: str, content: Mapping[str, list[list[Any]]], write_split: bool = True) -> Path:
    """Empty images for every row of a split, and the split file; returns the data set's folder."""
    facts = catalog.get(name)
    folder = root / facts.folder
    images = folder / facts.image_dir if facts.image_dir else folder
    images.mkdir(parents=True, exist_ok=True)
    touch(images, (row[0] for rows in content.values() for row in rows))
    if write_split and facts.split:
        (folder / facts.split.filename).write_text(json.dumps(content, indent=4))
    return folder


def content(classes: Iterable[tuple[str, str]], train: int = 3, val: int = 2, test: int = 2) -> Content:
    """A split with so many images per class; ``classes`` are (path with one ``{}``, class name)."""
    parts = {"train": range(train), "val": range(train, train + val), "test": range(train + val, train + val + test)}
    named = list(enumerate(classes))
    return {
        part: [[path.format(i), label, name] for label, (path, name) in named for i in numbers]
        for part, numbers in parts.items()
    }
