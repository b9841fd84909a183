"""Photographs in class folders, for the scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.workspace import write_jpeg


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, n in (("train", 4), ("val", 1), ("test", 2)):
        for label, name in enumerate(("fox", "owl", "sea")):
            for i in range(n):
                write_jpeg(tmp_path / "data" / "image_folder" / split / name / f"{i}.jpg", 100 * label + i + len(split))
    return tmp_path
