"""Checksums of archives that the user brings."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import datasets  # noqa: F401 - registers all data sets
from advpt.data.prepare import prepare
from tests.helpers.prepare import (
    Server,
    message,
    options,
    small,
    user_files,
    zipped,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


@pytest.mark.parametrize("cut", [0, 900])
def test_a_users_archive_is_verified_too(cut: int, server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    (mine,) = user_files(made, tmp_path / "mine", made.archives)
    mine.write_bytes(mine.read_bytes()[:cut])
    text = message(made, tmp_path / "data", archives=(mine,))
    assert ("is empty (0 bytes)" if not cut else "has md5") in text
    assert mine.stat().st_size == cut, "the user's file is left alone"
    if cut:
        assert "add --unverified" in text
        text = message(made, tmp_path / "data", archives=(mine,), unverified=True)
        assert "cut short or damaged" in text


def test_a_copy_packed_anew_is_accepted_when_asked_and_counted(server: Server, tmp_path: Path) -> None:
    made = small("EuroSAT", server)
    (mine,) = user_files(made, tmp_path / "mine", made.archives)
    with zipfile.ZipFile(mine) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    mine.write_bytes(zipped({f"EuroSAT/{name}": data for name, data in members.items()}))
    assert prepare(made.facts, tmp_path / "data", options(archives=(mine,), unverified=True)).ok
    mine.write_bytes(zipped(dict(list(members.items())[1:])))
    text = message(made, tmp_path / "other", archives=(mine,), unverified=True)
    assert "what came is not the whole data set, so nothing was changed" in text
    assert f"EuroSAT in {tmp_path}/other/eurosat: 1 missing: 2750/" in text
    assert not (tmp_path / "other" / "eurosat" / "2750").exists()
