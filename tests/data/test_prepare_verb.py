"""The verb ``prepare``."""

from __future__ import annotations

from pathlib import Path

import pytest

from advpt.cli import main


def test_digits_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--root", str(tmp_path)]
    assert main(["prepare", "digits", *root]) == 0
    assert main(["prepare", "--check", "--decode", *root]) == 0
    assert (
        "Digits      897 / 300 / 600       10         0               complete, all decode" in capsys.readouterr().out
    )
    next((tmp_path / "digits" / "images" / "two").iterdir()).write_bytes(b"<html>")
    assert main(["prepare", "digits", "--check", *root]) == 1
    assert main(["prepare", "digits", "--check", "--decode", *root]) == 1
    assert "a web page, not an image" in capsys.readouterr().out


def test_a_check_changes_nothing_and_counts_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "oxford_pets" / "images").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert main(["prepare", "pets", "--check", "--root", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "split_zhou_OxfordPets.json is missing" in out
    assert "DIFFERS" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_one_set_that_fails_does_not_keep_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "imagenet", "digits", "--root", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "NOT PREPARED" in out
    assert "complete" in out
    assert "ILSVRC2012_img_train.tar cannot be fetched by a program" in err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["prepare", "pet"], "unknown data set 'pet'. Did you mean 'pets'?"),
        (["prepare"], "name at least one data set: pets, flowers, food101"),
        (["prepare", "--check"], "no data set in"),
        (["prepare", "pets", "dtd", "--archive", "x"], "--archive belongs to one data set"),
        (["prepare", "image_folder", "--check"], "is your own data"),
        (["prepare", "pets", "--link"], "--link needs --from DIR"),
    ],
)
def test_mistakes_on_the_command_line(
    words: list[str], answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--root", str(tmp_path)]) == 2
    assert answer in capsys.readouterr().err


def test_the_data_root_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADVPT_DATA", str(tmp_path))
    assert main(["prepare", "digits"]) == 0
    assert (tmp_path / "digits" / "advpt_prepare.json").is_file()
