"""The steps by hand: for every set, and where an address has died."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import datasets  # noqa: F401 - registers all data sets
from advpt.cli import main
from advpt.data import catalog
from advpt.data.steps import manual
from tests.helpers.prepare import (
    Server,
    by_hand,
    message,
    small,
)

# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [facts.config for facts in map(catalog.get, catalog.names())])
def test_offline_prints_the_steps_of_every_set(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", name, "--root", str(tmp_path / "my data"), "--offline"]) == 0
    text = capsys.readouterr().out
    facts = catalog.get(name)
    for part in facts.parts:
        assert name == "digits" or str(tmp_path / "my data" / facts.folder / part.target) in text
    for source in facts.sources:
        assert source.optional or (source.filename in text and source.address in text)
        assert source.optional or not source.md5 or source.md5 in text or source.sha256 in text
    assert name == "image_folder" or f"prepare {name} --root {shlex.quote(str(tmp_path / 'my data'))}" in text
    assert list(tmp_path.iterdir()) == [], "nothing is made"


@pytest.mark.parametrize("name", ["pets", "imagenet", "cifar10", "caltech256"])
def test_the_collection_of_coops_sets_is_named_for_these_alone(name: str, tmp_path: Path) -> None:
    assert ("An unofficial collection of copies" in manual(catalog.get(name), tmp_path)) is (name == "pets")


pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


# --- addresses ----------------------------------------------------------------------------------------------------


def test_sun397s_dead_address_is_answered_with_what_to_do(server: Server, tmp_path: Path) -> None:
    made = small("SUN397", server)
    text = message(made, tmp_path)
    assert "The address answers 404 since 2025: bring the archive yourself (--archive, --from)." in text
    assert text.endswith(by_hand(made, tmp_path))
    assert f"prepare sun397 --root {tmp_path} --archive SUN397.tar.gz --archive split_zhou_SUN397.json" in text
    assert [path for path, _ in server.requests] == ["/github/split_zhou_SUN397.json"], "the dead address is not asked"


@pytest.mark.parametrize(("name", "words"), [("StanfordCars", "address is dead"), ("ImageNet", "needs an account")])
def test_what_only_people_can_fetch(name: str, words: str, server: Server, tmp_path: Path) -> None:
    made = small(name, server)
    text = message(made, tmp_path)
    assert words in text
    assert text.endswith(by_hand(made, tmp_path))
    assert all(f"--archive {filename}" in text for filename in made.archives)


@pytest.mark.parametrize("name", ["Caltech101", "FGVCAircraft", "EuroSAT", "ImageNetR"])
def test_an_address_that_has_died_ends_in_the_steps_by_hand(name: str, server: Server, tmp_path: Path) -> None:
    made = small(name, server)
    for path, page in server.pages.items():
        page.status = 404 if path.startswith("/url/") else 200
    text = message(made, tmp_path)
    assert "the server answers 404" in text
    assert text.endswith(by_hand(made, tmp_path))
