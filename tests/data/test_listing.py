"""Lists of files: which files count, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.data import listing


def test_missing_accepts_what_the_disk_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b/c/3.jpg", "4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    wanted = ["a/1.jpg", "a/9.jpg", "b/c/3.jpg", "4.jpg", "5.jpg", "d/1.jpg"]
    assert listing.missing(tmp_path, wanted) == ["a/9.jpg", "5.jpg", "d/1.jpg"]
    with monkeypatch.context() as patched:  # a disk that ignores case lists names as they were made
        patched.setattr(listing.os, "listdir", lambda path: [])
        assert listing.missing(tmp_path, wanted) == ["a/9.jpg", "5.jpg", "d/1.jpg"]


def test_only_image_files_are_listed_sorted_and_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.JPEG", "a.jpg", "._a.jpg", ".DS_Store", "Thumbs.db", "LICENSE", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "sub").mkdir()
    assert listing.images(tmp_path) == ["a.jpg", "b.JPEG", "c.png"]
    assert listing.folders(tmp_path) == ["sub"]
    assert listing.images(tmp_path / "none") == []
