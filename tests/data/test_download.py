"""Downloads: whole, truncated, wrong, a web page, without Range, interrupted and resumed, two processes, full disk."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from pathlib import Path

import pytest

from advpt.data import download, verify
from advpt.data.download import DownloadError, fetch
from advpt.data.facts import Source
from advpt.data.prepare import prepare
from advpt.data.verify import WrongFile
from advpt.errors import DataError
from tests.helpers.prepare import QUOTA, Server, everything, network, options, small

DATA = bytes(range(256)) * 4000


def source(server: Server, data: bytes = DATA, **options: object) -> Source:
    url = server.put("images.tar.gz", data, **options)
    return Source("images", "url", url, "images.tar.gz", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


def message(source: Source, folder: Path, **changes: object) -> str:
    with pytest.raises(DataError) as caught:
        fetch(source, folder, network(**changes))
    return str(caught.value)


def test_whole_and_then_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    got = fetch(source(server), tmp_path, network())
    assert got.path.read_bytes() == DATA
    assert got.checked == ("size", "sha256")
    assert everything(tmp_path).keys() == {"images.tar.gz"}
    fetch(source(server), tmp_path, network())
    assert server.asked("images.tar.gz") == [""]


def test_a_connection_that_breaks_is_continued_with_range(server: Server, tmp_path: Path) -> None:
    assert fetch(source(server, cuts=[700_000]), tmp_path, network()).path.read_bytes() == DATA
    assert server.asked("images.tar.gz") == ["", "bytes=700000-"]


def test_an_interrupted_run_is_continued_by_the_next(server: Server, tmp_path: Path) -> None:
    text = message(source(server, cuts=[300_000]), tmp_path, attempts=1)
    assert "the connection ended at 300,000 of 1,024,000 bytes" in text
    assert f"300,000 bytes are kept in {tmp_path}/images.tar.gz.partial; the same command continues there" in text
    assert not (tmp_path / "images.tar.gz").exists()
    assert fetch(source(server), tmp_path, network()).path.read_bytes() == DATA
    assert server.asked("images.tar.gz") == ["", "bytes=300000-"]


def test_a_server_without_range_starts_over(server: Server, tmp_path: Path) -> None:
    got = fetch(source(server, cuts=[300_000], ranges=False), tmp_path, network())
    assert got.path.read_bytes() == DATA
    assert server.asked("images.tar.gz") == ["", "bytes=300000-"]


def test_two_versions_of_a_file_are_never_glued_together(server: Server, tmp_path: Path) -> None:
    unknown = {"size": 0, "sha256": ""}  # no hash would tell
    message(dataclasses.replace(source(server, b"x" * len(DATA), cuts=[300_000]), **unknown), tmp_path, attempts=1)
    second = dataclasses.replace(source(server, etag='"2"'), **unknown)
    assert fetch(second, tmp_path, network()).path.read_bytes() == DATA


def test_a_partial_file_of_something_else_is_fetched_from_the_beginning(server: Server, tmp_path: Path) -> None:
    (tmp_path / "images.tar.gz.partial").write_bytes(b"y" * 1000)
    assert fetch(source(server), tmp_path, network()).path.read_bytes() == DATA
    assert server.asked("images.tar.gz") == ["bytes=1000-", ""]


@pytest.mark.parametrize("length", [len(DATA), len(DATA) + 5])
def test_a_partial_file_as_long_as_the_whole_or_longer(server: Server, tmp_path: Path, length: int) -> None:
    (tmp_path / "images.tar.gz.partial").write_bytes((DATA + b"12345")[:length])
    assert fetch(source(server), tmp_path, network(attempts=3)).path.read_bytes() == DATA


def test_a_wrong_hash_is_shown_and_the_file_deleted(server: Server, tmp_path: Path) -> None:
    wrong = b"z" * len(DATA)
    text = message(source(server, wrong), tmp_path)
    assert hashlib.sha256(wrong).hexdigest() in text
    assert f"expected {hashlib.sha256(DATA).hexdigest()}" in text
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("mark", ["md5", "git_blob"])
def test_md5_and_git_blob_are_compared_too(mark: str, server: Server, tmp_path: Path) -> None:
    url = server.put("a.json", DATA)
    right = dataclasses.asdict(
        verify.checksums(fetch(Source("split", "url", url, "a.json"), tmp_path, network()).path)
    )[mark]
    (tmp_path / "a.json").unlink()
    assert fetch(Source("split", "url", url, "a.json", **{mark: right}), tmp_path, network()).checked == (mark,)
    (tmp_path / "a.json").unlink()
    wrong = Source("split", "url", url, "a.json", **{mark: right[::-1]})
    assert f"expected {right[::-1]}" in message(wrong, tmp_path)


def test_a_truncated_file_that_claims_to_be_whole(server: Server, tmp_path: Path) -> None:
    text = message(source(server, DATA[:1000]), tmp_path)
    assert "images.tar.gz has 1,000 bytes, expected 1,024,000: it is another file" in text, "told before it is fetched"
    unsized = dataclasses.replace(source(server, DATA[:1000]), size=0)
    assert "has SHA-256" in message(unsized, tmp_path)
    assert everything(tmp_path) == {}


def test_an_empty_file(server: Server, tmp_path: Path) -> None:
    text = message(dataclasses.replace(source(server, b""), size=0), tmp_path)
    assert "is empty (0 bytes)" in text


@pytest.mark.parametrize("size", [0, len(DATA)])
def test_a_web_page_in_the_place_of_data(size: int, server: Server, tmp_path: Path) -> None:
    page = b"\n<html><body>This page has moved</body></html>"
    text = message(dataclasses.replace(source(server, page), size=size), tmp_path)
    assert "is a web page instead of images.tar.gz: the address has moved or asks for a sign-in" in text
    text = message(dataclasses.replace(source(server, QUOTA), size=size), tmp_path)
    assert "Google Drive says that its download quota is exceeded" in text
    assert "--archive images.tar.gz" in text
    assert everything(tmp_path) == {}


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 2)])
def test_dead_addresses_and_overloaded_servers(status: int, tries: int, server: Server, tmp_path: Path) -> None:
    text = message(source(server, status=status), tmp_path)
    assert f"the server answers {status}" in text
    assert len(server.requests) == tries


def test_no_connection_at_all(server: Server, tmp_path: Path) -> None:
    gone = source(server)
    server.close()
    try:
        assert "could not be fetched: no connection" in message(gone, tmp_path)
    finally:
        server.thread = threading.Thread(target=lambda: None)
        server.thread.start()
        server.http.shutdown = lambda: None  # type: ignore[method-assign]


def test_a_full_disk_is_seen_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    text = message(source(server), tmp_path, free=lambda _: 50_000_000)
    assert "images.tar.gz needs about 1.0 MB on the disk of" in text
    assert "50.0 MB free" in text
    assert everything(tmp_path) == {}
    made = small("OxfordPets", server)
    facts = dataclasses.replace(made.facts, gigabytes=(39.0, 39.0))
    with pytest.raises(DataError, match=r"OxfordPets needs about 78\.0 GB .* which has 40\.0 GB free"):
        prepare(facts, tmp_path, options(network=network(free=lambda _: 40_000_000_000)))
    assert server.asked("url/images.tar.gz") == []


def test_only_web_addresses_are_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    text = message(Source("images", "url", f"file://{tmp_path}/secret", "a.zip"), tmp_path)
    assert "is no http or https address" in text


# --- Google Drive -------------------------------------------------------------------------------------------------


def drive(text: bytes) -> object:
    return lambda file_id, target: target.write_bytes(text)


def test_drives_quota_page_is_recognised(tmp_path: Path) -> None:
    wanted = Source("images", "drive", "ID", "frames.zip")
    text = message(wanted, tmp_path, drive=drive(QUOTA))
    assert "is a web page instead of frames.zip: Google Drive says that its download quota is exceeded" in text
    assert "pass it with --archive frames.zip" in text
    assert "https://drive.google.com/uc?id=ID" in text
    assert everything(tmp_path) == {}


def test_what_gdown_raises_becomes_the_next_thing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gdown

    def over_quota(**wanted: object) -> None:
        assert wanted["id"] == "ID"
        assert wanted["resume"] is True
        raise gdown.exceptions.FileURLRetrievalError("Too many users have viewed or downloaded this file recently.")

    monkeypatch.setattr(gdown, "download", over_quota)
    text = message(Source("images", "drive", "ID", "frames.zip"), tmp_path, drive=download.drive_file)
    assert "Too many users" in text
    assert "most likely its download quota is exceeded" in text

    def no_line(**_: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(gdown, "download", no_line)
    text = message(Source("images", "drive", "ID", "frames.zip"), tmp_path, drive=download.drive_file)
    assert text == "https://drive.google.com/uc?id=ID could not be fetched: Name or service not known"


def test_gdown_itself_fetches_and_continues(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gdown

    real = gdown.download
    url = server.put("frames.zip", DATA, cuts=[700_000])

    def local(id: str, **wanted: object) -> object:  # noqa: A002
        return real(url=url, **wanted)

    monkeypatch.setattr(gdown, "download", local)
    wanted = dataclasses.replace(source(server), where="drive", address="ID", filename="frames.zip")
    assert "could not be fetched" in message(wanted, tmp_path, drive=download.drive_file)
    got = fetch(wanted, tmp_path, network(drive=download.drive_file))
    assert got.path.read_bytes() == DATA
    assert server.asked("frames.zip")[-1] == "bytes=524288-"
    assert everything(tmp_path).keys() == {"frames.zip"}


# --- two at once --------------------------------------------------------------------------------------------------


def test_two_processes_on_one_set_fetch_it_once(server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    for page in server.pages.values():
        page.delay = 0.15
    results: list[object] = []

    def run() -> None:
        try:
            results.append(prepare(made.facts, tmp_path, options()).ok)
        except DataError as error:  # pragma: no cover - shown by the assertion
            results.append(error)

    both = [threading.Thread(target=run) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert results == [True, True]
    assert len(server.asked("url/images.tar.gz")) == 1


def test_errors_are_of_the_right_kind(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        fetch(source(server, status=404), tmp_path, network())
    with pytest.raises(WrongFile):
        fetch(source(server, b"1" * len(DATA)), tmp_path, network())
