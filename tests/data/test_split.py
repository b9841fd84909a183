"""Split files: what is accepted, what is refused and how, and what counts as the official one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from advpt.data import catalog, split
from advpt.data.facts import SplitFacts
from advpt.errors import DataError

GOOD: dict[str, Any] = {
    "train": [["a/1.jpg", 0, "ant"], ["b/1.jpg", 1, "bee"]],
    "val": [["a/2.jpg", 0, "ant"]],
    "test": [["a/3.jpg", 0, "ant"], ["b/3.jpg", 1, "bee"]],
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "split_zhou_X.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def changed(**parts: Any) -> dict[str, Any]:
    return {**GOOD, **parts}


def test_a_good_file_is_read_and_its_digest_ignores_layout(tmp_path: Path) -> None:
    first, _ = split.read(write(tmp_path, GOOD))
    second, _ = split.read(write(tmp_path, json.dumps({k: GOOD[k] for k in reversed(GOOD)}, indent=7)))
    assert first == second
    assert first.counts() == (2, 1, 2)
    assert first.digest() == second.digest()
    assert first.train[1] == ("b/1.jpg", 1, "bee")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_digest_sees_order_label_name_and_part(part: str) -> None:
    base = split.parse(GOOD, "x").digest()
    rows = [["z/9.jpg", 0, "ant"], *GOOD[part]]
    assert split.parse(changed(**{part: rows}), "x").digest() != base
    if len(GOOD[part]) > 1:
        assert split.parse(changed(**{part: GOOD[part][::-1]}), "x").digest() != base


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON .* 0 bytes"),
        ("<!DOCTYPE html><html><title>Quota exceeded</title>", "is a web page.*Google Drive's 'quota exceeded'"),
        ([], "expected an object with 'train', 'val' and 'test', found list"),
        ({"train": []}, "expected an object .* found 'train'"),
        (changed(train={}), "'train' is not a list"),
        (changed(train=[]), "the list 'train' is empty"),
        (changed(test=[]), "the list 'test' is empty"),
        (changed(val=[["a/2.jpg", 0]]), r"entry 0 of 'val' is \['a/2.jpg', 0\]; expected \[relative path, label"),
        (changed(val=[["a/2.jpg", "0", "ant"]]), "entry 0 of 'val'"),
        (changed(val=[["a/2.jpg", True, "ant"]]), "entry 0 of 'val'"),
        (changed(val=[["/etc/2.jpg", 0, "ant"]]), "'/etc/2.jpg' in 'val' is not a plain relative path"),
        (changed(val=[["a/../../2.jpg", 0, "ant"]]), "is not a plain relative path"),
        (changed(val=[["a\\2.jpg", 0, "ant"]]), "is not a plain relative path"),
        (changed(val=[["C:/2.jpg", 0, "ant"]]), "is not a plain relative path"),
        (changed(val=[["", 0, "ant"]]), "is not a plain relative path"),
        (changed(val=[["a/1.jpg", 0, "ant"]]), "'a/1.jpg' is listed twice, in 'train' and 'val'"),
        (changed(val=[["a/2.jpg", 0, "bug"]]), "label 0 has two names, 'ant' and 'bug'"),
        (changed(val=[["a/2.jpg", 3, "cat"]]), "3 labels must be 0 to 2 without gaps; found 3 where 2 is due"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        split.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split_zhou_X.json is missing: expected at"):
        split.read(tmp_path / "split_zhou_X.json")


def test_git_blob_is_gits() -> None:
    assert split.git_blob(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert split.git_blob(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_judging_by_blob_id_accepts_another_layout_of_the_same_content(tmp_path: Path) -> None:
    good = split.parse(GOOD, "x")
    facts = dataclasses.replace(
        catalog.get("food101"),
        split=SplitFacts("split_zhou_X.json", git_blob=split.git_blob(good.as_text().encode())),
    )
    path = write(tmp_path, GOOD)
    assert split.unofficial_warning(facts, good, path.read_bytes(), path) == ""
    other = split.parse(changed(val=[]), "x")
    warning = split.unofficial_warning(facts, other, other.as_text().encode(), path)
    assert split.git_blob(good.as_text().encode()) in warning
    assert split.git_blob(other.as_text().encode()) in warning
    assert "2 / 0 / 2 images in train / val / test, the official one has 50,500 / 20,200 / 30,300" in warning


def test_a_split_without_a_hash_on_record_is_not_called_official(tmp_path: Path) -> None:
    unknown = dataclasses.replace(catalog.get("caltech101"), split=SplitFacts("split_zhou_Caltech101.json"))
    warning = split.unofficial_warning(unknown, split.parse(GOOD, "x"), b"", tmp_path / "s.json")
    assert "no hash of the official split_zhou_Caltech101.json is on record" in warning


@pytest.mark.parametrize("odd", ("caf\udce9", "\ud800"))
@pytest.mark.parametrize("place", (0, 2))
def test_halves_of_characters_in_names_are_refused(tmp_path: Path, odd: str, place: int) -> None:
    rows: list[list[object]] = [["a/1.jpg", 0, "a"], ["b/1.jpg", 1, "b"]]
    rows[1][place] = f"b{odd}"
    path = write(tmp_path, {"train": rows, "val": [], "test": [["a/2.jpg", 0, "a"]]})
    with pytest.raises(DataError, match="is not UTF-8; rename it"):
        split.read(path)
