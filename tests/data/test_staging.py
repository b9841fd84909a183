"""A set that is half there: completed, continued, and never mixed with leftovers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import datasets  # noqa: F401 - registers all data sets
from advpt.data import archives, manifest, staging
from advpt.data.prepare import prepare
from tests.helpers.prepare import (
    Server,
    assert_not_taken_for_complete,
    options,
    small,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


# --- what is there already ------------------------------------------------------------------------------------------


def test_a_half_unpacked_folder_is_completed(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    images = tmp_path / "oxford_pets" / "images"
    images.mkdir(parents=True)
    (images / "pug_0.jpg").write_bytes(b"cut sh")
    assert_not_taken_for_complete(made, tmp_path)
    assert prepare(made.facts, tmp_path, options()).ok
    assert (images / "pug_0.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize("moment", ["unpacking", "renaming", "manifest"])
def test_interrupted_at_any_moment_then_continued(
    moment: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small("OxfordPets", server)
    where: tuple[Any, str] = {
        "unpacking": (archives, "member_path"),
        "renaming": (staging, "rename"),
        "manifest": (manifest, "write"),
    }[moment]
    real = getattr(*where)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(*where, killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(made.facts, tmp_path, options())
    assert manifest.manifest(tmp_path / "oxford_pets") is None
    if moment != "manifest":
        assert_not_taken_for_complete(made, tmp_path)
    monkeypatch.setattr(*where, real)
    assert prepare(made.facts, tmp_path, options()).ok
    assert manifest.manifest(tmp_path / "oxford_pets") is not None
    assert server.asked("url/images.tar.gz") == [""], "what was verified is not fetched again"
    assert not (tmp_path / "oxford_pets" / ".prepare").exists()


def test_leftovers_of_a_killed_run_do_not_mix_in(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    for folder in ("unpacked", "staged"):
        stale = tmp_path / "oxford_pets" / ".prepare" / folder / "images"
        stale.mkdir(parents=True)
        (stale / "stale.jpg").write_bytes(b"1")
    assert prepare(made.facts, tmp_path, options()).ok
    assert not list(tmp_path.rglob("stale.jpg"))
