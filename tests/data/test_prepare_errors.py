"""Section by section what goes wrong on the way, each situation made and its message read; nothing half-done stays."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import datasets  # noqa: F401 - registers all data sets
from advpt.data import catalog, layout, manifest
from advpt.data.catalog import get
from advpt.data.prepare import LOCK, prepare
from advpt.errors import ConfigError, DataError
from tests.helpers.prepare import (
    QUOTA,
    Server,
    Small,
    by_hand,
    drive,
    message,
    network,
    options,
    small,
    tarred,
    user_files,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")


def test_a_second_address_is_tried(server: Server, tmp_path: Path) -> None:
    made = small("EuroSAT", server)
    first, second, *rest = made.facts.sources
    dead = dataclasses.replace(first, address=server.put("dead.zip", b"", status=404))
    facts = dataclasses.replace(made.facts, sources=(dead, second, *rest))
    assert prepare(facts, tmp_path, options()).ok
    assert [path for path, _ in server.requests][1:] == ["/dead.zip", "/url/EuroSAT.zip"]


def test_drives_quota_page_in_the_place_of_frames(server: Server, tmp_path: Path) -> None:
    made = small("UCF101", server)
    text = message(made, tmp_path, network=network(drive=lambda _, target: target.write_bytes(QUOTA)))
    assert "Google Drive says that its download quota is exceeded" in text
    assert text.endswith(by_hand(made, tmp_path))
    assert not list(tmp_path.rglob("*.zip*"))


def test_drives_quota_page_in_the_place_of_the_split_leaves_the_other_source(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    server.pages["/github/split_zhou_OxfordPets.json"].status = 404
    quota = network(drive=lambda _, target: target.write_bytes(QUOTA))
    text = message(made, tmp_path, network=quota)
    assert "the server answers 404" in text
    assert "quota is exceeded" in text
    assert server.asked("url/images.tar.gz") == [], "nothing large is fetched for want of a small file"
    assert prepare(made.facts, tmp_path, options(network=network(drive=drive(made)))).ok


def test_offline_fetches_nothing(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    text = message(made, tmp_path, offline=True)
    assert "split_zhou_OxfordPets.json is not here and --offline was given" in text
    assert server.requests == []


# --- archives -----------------------------------------------------------------------------------------------------


def replaced(made: Small, server: Server, data: bytes) -> None:
    server.pages["/url/images.tar.gz"].data = data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<html>moved", "is a web page instead of images.tar.gz"),
        (QUOTA, "download quota is exceeded"),
        (b"\x1f\x8b other", "has md5"),
    ],
    ids=["zero bytes", "page", "quota", "wrong hash"],
)
def test_what_comes_in_the_place_of_the_archive(data: bytes, words: str, server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    replaced(made, server, data)
    text = message(made, tmp_path)
    assert words in text
    assert text.endswith(by_hand(made, tmp_path))


@pytest.mark.parametrize(
    ("name", "archive", "members", "advice"),
    [
        (
            "ImageNetV2",
            "v2.tar",
            {"imagenetv2-top-images-format-val/0/a.jpeg": b"1"},
            "matched-frequency.tar.gz is needed",
        ),
        ("ImageNetV2", "v2.tar", {"imagenetv2-threshold0.7-format-val/0/a.jpeg": b"1"}, "another of the three V2 sets"),
        (
            "UCF101",
            "UCF101.tar",
            {"UCF-101/YoYo/v_YoYo_g01_c01.avi": b"1"},
            "the middle frames are needed, not the videos",
        ),
        ("SUN397", "sun.tar", {"SUN397/train/abbey/s_0.jpg": b"1"}, "needs the original tree SUN397/<letter>/<class>"),
        ("OxfordPets", "pets.tar", {"annotations/list.txt": b"1"}, "holds no images; found at its top: annotations"),
    ],
)
def test_another_archive_than_the_one_needed(
    name: str, archive: str, members: dict[str, bytes], advice: str, server: Server, tmp_path: Path
) -> None:
    made = small(name, server)
    (tmp_path / archive).write_bytes(tarred(members, "w"))
    text = message(made, tmp_path / "data", archives=(tmp_path / archive,))
    assert advice in text
    assert not any(path.is_dir() for path in (tmp_path / "data" / made.facts.folder).glob("[!.]*"))


def test_a_folder_with_files_of_its_own_is_left_alone(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    images = tmp_path / "oxford_pets" / "images"
    images.mkdir(parents=True)
    (images / "my_dog.jpg").write_bytes(b"dear")
    text = message(made, tmp_path)
    assert f"{images} is there but is not complete, and it has 1 files of its own: my_dog.jpg. Move it away" in text
    assert (images / "my_dog.jpg").read_bytes() == b"dear"
    images.rename(tmp_path / "away")
    asked = len(server.asked("url/images.tar.gz"))
    assert prepare(made.facts, tmp_path, options()).ok
    assert len(server.asked("url/images.tar.gz")) == asked, "the verified archive was kept for this run"


def test_a_zero_byte_image_is_replaced(server: Server, tmp_path: Path) -> None:
    made = small("Food101", server)
    prepare(made.facts, tmp_path, options())
    image = tmp_path / "food-101" / "images" / "ramen" / "0.jpg"
    image.write_bytes(b"")
    report = layout.examine(made.facts, tmp_path / "food-101")
    assert report.empty == ("images/ramen/0.jpg",)
    assert report.lines() == [f"Food101 in {tmp_path}/food-101: 1 empty (0 bytes): images/ramen/0.jpg"]
    assert prepare(made.facts, tmp_path, options()).ok
    assert image.stat().st_size


def test_only_the_missing_part_is_brought(tmp_path: Path, server: Server) -> None:
    made = small("StanfordCars", server)
    mine = user_files(made, tmp_path / "mine")
    text = message(made, tmp_path, archives=mine[:1])
    assert "cars_test.tgz cannot be fetched by a program" in text
    assert prepare(made.facts, tmp_path, options(archives=mine)).ok
    (tmp_path / "stanford_cars" / "cars_test" / "00000.jpg").unlink()
    before = (tmp_path / "stanford_cars" / "cars_train").stat().st_ino
    assert prepare(made.facts, tmp_path, options(archives=mine[1:2])).ok
    assert (tmp_path / "stanford_cars" / "cars_train").stat().st_ino == before


def test_a_second_process_waits(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = small("OxfordPets", server)
    held = archives_lock(tmp_path / "oxford_pets")
    caplog.set_level("INFO")
    other = threading.Thread(target=prepare, args=(made.facts, tmp_path, options()))
    other.start()
    while "waiting for another process that works on OxfordPets" not in caplog.text:
        time.sleep(0.01)
    assert server.requests == []
    held.release()
    other.join()
    assert layout.examine(made.facts, tmp_path / "oxford_pets").ok


def archives_lock(folder: Path) -> Any:
    from advpt.files import FileLock

    lock = FileLock(folder / LOCK)
    assert lock.acquire(wait=False)
    return lock


def test_a_disk_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(DataError, match="OxfordPets: .* cannot be read or written .* the same command again"):
        prepare(made.facts, tmp_path / "data", options())


def test_a_folder_that_has_not_what_is_asked_for(server: Server, tmp_path: Path) -> None:
    made = small("DescribableTextures", server)
    (tmp_path / "theirs" / "pictures").mkdir(parents=True)
    (tmp_path / "theirs" / "notes.txt").write_text("x")
    text = message(made, tmp_path / "data", origin=tmp_path / "theirs")
    assert (
        f"{tmp_path}/theirs holds no images; found there: notes.txt, pictures. Expected images or dtd/dtd/images"
        in text
    )
    assert server.asked("url/dtd-r1.0.1.tar.gz") == []


def test_a_damaged_archive_that_lies_in_the_folder_is_passed_over(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    (tmp_path / "oxford_pets").mkdir()
    (tmp_path / "oxford_pets" / "images.tar.gz").write_bytes(b"half")
    assert prepare(made.facts, tmp_path, options()).ok
    assert (tmp_path / "oxford_pets" / "images.tar.gz").read_bytes() == b"half"


def test_another_split_of_the_user_is_not_installed(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    mine = user_files(made, tmp_path / "mine")
    mine[1].write_bytes(
        mine[1].read_bytes().replace(b"pug_0", b"pug_X").replace(b"pug_5", b"pug_0").replace(b"_X", b"_5")
    )
    text = message(made, tmp_path / "data", archives=mine, offline=True)
    assert f"{mine[1]} is not the official split" in text
    assert prepare(made.facts, tmp_path / "data", options(archives=mine)).ok
    assert (tmp_path / "data" / "oxford_pets" / mine[1].name).read_bytes() == made.split


# --- options --------------------------------------------------------------------------------------------------------


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    made = small("OxfordPets")
    for changes, words in (
        ({"sort_val": True}, "--sort-val is for imagenet"),
        ({"link": True}, "--link needs --from"),
        ({"archives": (tmp_path / "no.zip",)}, "does not exist; give the path of a file"),
        ({"origin": Path(__file__)}, "is no folder; give archives with --archive"),
    ):
        assert words in message(made, tmp_path, kind=ConfigError, **changes)
    with pytest.raises(ConfigError, match="ImageFolder is your own data"):
        prepare(get("image_folder"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_digits_are_made_and_damage_is_told(tmp_path: Path) -> None:
    assert prepare(catalog.get("digits"), tmp_path).counts == (897, 300, 600)
    assert manifest.manifest(tmp_path / "digits") is not None
    next((tmp_path / "digits" / "images" / "one").iterdir()).unlink()
    with pytest.raises(DataError, match=r"1 missing: images/one/(.|\n)*delete .*digits; then run"):
        prepare(catalog.get("digits"), tmp_path)


def test_terms_are_told_before_anything_is_fetched(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made = small("OxfordPets", server)
    prepare(made.facts, tmp_path, options())
    assert caplog.messages[0] == "OxfordPets: 0.8 GB; terms: CC BY-SA 4.0"


def test_archives_are_kept_when_asked(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    prepare(made.facts, tmp_path, options(keep=True))
    kept = tmp_path / "oxford_pets" / ".prepare"
    assert {path.name for path in kept.iterdir()} == {"images.tar.gz", "split_zhou_OxfordPets.json"}
