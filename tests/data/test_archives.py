"""Unpacking: what hostile and damaged archives try, and that nothing outside the target is ever written."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from advpt.data import archives, preparation
from advpt.data.archives import Budget, HostileArchive
from advpt.data.prepare import prepare
from advpt.errors import DataError
from tests.helpers.prepare import QUOTA, Server, everything, member, options, small, tar_of, tarred, user_files, zipped

ROOM = 10_000_000


def unpack(data: bytes, folder: Path, room: int = ROOM, name: str = "a.tar") -> Path:
    """Unpack ``data`` in ``folder/in/target``; the folders around it are there to be attacked."""
    target = folder / "in" / "target"
    target.mkdir(parents=True)
    (folder / name).write_bytes(data)
    archives.extract(folder / name, target, Budget(room))
    return target


def refused(data: bytes, folder: Path, room: int = ROOM, kind: type[DataError] = HostileArchive) -> str:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "victim").write_text("mine")
    with pytest.raises(kind) as caught:
        unpack(data, folder, room)
    outside = {k: v for k, v in everything(folder).items() if not k.startswith("in/target/") and k != "a.tar"}
    assert outside == {"in/victim": b"mine"}
    return str(caught.value)


GOOD = {"images/a.jpg": b"a" * 3000, "images/b/c.jpg": b"c", "._images": b"litter", "__MACOSX/x": b"litter"}
UNPACKED = {"images/a.jpg": b"a" * 3000, "images/b/c.jpg": b"c"}


@pytest.mark.parametrize(
    "data",
    [
        tarred(GOOD, "w"),
        tarred(GOOD, "w:gz"),
        tarred(GOOD, "w:bz2"),
        tarred(GOOD, "w:xz"),
        zipped(GOOD),
        gzip.compress(gzip.decompress(tarred(GOOD))[:6656]),
    ],
    ids=["tar", "gz", "bz2", "xz", "zip", "no end mark"],
)
def test_every_kind_is_told_by_content(data: bytes, tmp_path: Path) -> None:
    assert everything(unpack(data, tmp_path, name="wrong-name.bin")) == UNPACKED


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "a/..", "..", "C:/evil", "..\\evil", "a\x01b"]
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_leave_the_folder(name: str, kind: str, tmp_path: Path) -> None:
    data = tar_of(member("ok", b"1"), member(name)) if kind == "tar" else zipped({"ok": b"1", name: b"x"})
    assert "would be written outside its folder or under another name" in refused(data, tmp_path)


@pytest.mark.parametrize("where", ["/etc", "..", "../../victim", "b/../../.."])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_that_leave_the_folder(kind: bytes, where: str, tmp_path: Path) -> None:
    text = refused(tar_of(member("a", kind=kind, link=where)), tmp_path)
    assert "is refused: 'a' " in text and ("outside the destination" in text or "to an absolute path" in text)


def test_symbolic_links_in_a_zip(tmp_path: Path) -> None:
    text = refused(zipped({"ok": b"1"}, {"a": "../../victim"}), tmp_path)
    assert "is refused: 'a' would link to" in text and "outside the destination" in text


def test_writing_through_a_link_is_not_possible(tmp_path: Path) -> None:
    through = tar_of(
        member("a", kind=tarfile.SYMTYPE, link="b"), member("b", kind=tarfile.DIRTYPE), member("a/x", b"1")
    )
    target = unpack(through, tmp_path)
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert everything(target) == {"a/x": b"1"}


def test_links_inside_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data = tar_of(
        member("b/one.jpg", b"1"),
        member("sym.jpg", kind=tarfile.SYMTYPE, link="b/one.jpg"),
        member("b/up.jpg", kind=tarfile.SYMTYPE, link="../b/one.jpg"),
        member("hard.jpg", kind=tarfile.LNKTYPE, link="b/one.jpg"),
        member("dangling", kind=tarfile.SYMTYPE, link="nothing"),
    )
    assert everything(unpack(data, tmp_path)) == {"b/one.jpg": b"1"}
    assert "a.tar: hard.jpg is a link to b/one.jpg; it is left out" in caplog.text
    (tmp_path / "zip").mkdir()
    assert everything(unpack(zipped({"one.jpg": b"1"}, {"sym.jpg": "one.jpg"}), tmp_path / "zip")) == {"one.jpg": b"1"}


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes(kind: bytes, tmp_path: Path) -> None:
    assert "'null' is a special file" in refused(tar_of(member("null", kind=kind)), tmp_path)


def test_a_file_as_a_folder(tmp_path: Path) -> None:
    assert "both as a file and as a folder" in refused(tar_of(member("a"), member("a/b")), tmp_path)
    (tmp_path / "in" / "target" / "a").unlink()
    (tmp_path / "in" / "target").rmdir()
    assert "both as a file and as a folder" in refused(tar_of(member("a/b"), member("a")), tmp_path)


def test_a_huge_declared_size_is_refused_before_it_is_written(tmp_path: Path) -> None:
    info, data = member("big", b"x" * 512)
    info.size = 10**13
    raw = info.tobuf(tarfile.GNU_FORMAT) + data
    assert "unpacks to more than 0.01 GB" in refused(raw, tmp_path)
    assert everything(tmp_path / "in" / "target") == {}


@pytest.mark.parametrize("kind", ["gz", "zip", "sparse"])
def test_bombs(kind: str, tmp_path: Path) -> None:
    zeros = bytes(200_000)
    if kind == "gz":
        data = tarred({f"{i}": zeros for i in range(40)})
    elif kind == "zip":
        data = zipped({f"{i}": zeros for i in range(40)})
    else:
        info, body = member("hole", b"x" * 512)
        info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,512"}
        info.pax_headers |= {"GNU.sparse.size": str(10**12), "GNU.sparse.realsize": str(10**12)}
        data = tar_of((info, body))
    assert "archive bomb" in refused(data, tmp_path, room=1_000_000)
    assert sum(map(len, everything(tmp_path / "in" / "target").values())) <= 1_000_000


def test_a_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 62
    raw = info.tobuf(tarfile.GNU_FORMAT) + bytes(512)
    assert "is cut short or damaged" in refused(raw, tmp_path, kind=DataError)


def test_padding_behind_the_end_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "PADDING_BYTES", 4 * archives.CHUNK_BYTES)
    data = gzip.compress(gzip.decompress(tarred(GOOD)) + bytes(5 * archives.CHUNK_BYTES))
    assert "behind its end: an archive bomb" in refused(data, tmp_path)


def test_more_members_than_any_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tarred({str(i): b"" for i in range(9)}))
    with pytest.raises(HostileArchive, match="members"):
        archives.extract(tmp_path / "a.tar", tmp_path / "t", Budget(ROOM, members=8))


def test_permissions_of_the_archive_are_not_taken_over(tmp_path: Path) -> None:
    info, data = member("tool", b"#!/bin/sh")
    info.mode = 0o6777
    path = unpack(tar_of((info, data)), tmp_path) / "tool"
    assert path.stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (QUOTA, "Google Drive's 'quota exceeded' page"),
        (b"GIF89a and so on", "is no zip or tar archive"),
        (tarred(GOOD)[:120], "cut short or damaged"),
        (tarred(GOOD, "w")[:2000], "cut short or damaged"),
        (tarred(GOOD, "w:bz2")[:100], "cut short or damaged"),
        (tarred(GOOD, "w:xz")[:100], "cut short or damaged"),
        (zipped(GOOD)[:-30], "cut short or damaged"),
        (b"BZh9" + b"nonsense" * 20, "cut short or damaged"),
    ],
    ids=["empty", "page", "gif", "gz", "tar", "bz2", "xz", "zip", "bz2 nonsense"],
)
def test_damaged_archives(data: bytes, words: str, tmp_path: Path) -> None:
    assert words in refused(data, tmp_path, kind=DataError)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    data = bytearray(tarred({"a.jpg": os.urandom(5000)}))
    data[-6] ^= 1
    assert "cut short or damaged" in refused(bytes(data), tmp_path, kind=DataError)
    for path in (tmp_path / "in" / "target").iterdir():
        path.unlink()
    (tmp_path / "in" / "target").rmdir()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a.jpg", b"0123456789" * 50)
    damaged = packed.getvalue().replace(b"0123456789" * 50, b"0123456789" * 49 + b"0123456780")
    assert "Bad CRC-32" in refused(damaged, tmp_path, kind=DataError)


@pytest.mark.parametrize(
    "data",
    [
        tar_of(member("images/pug_0.jpg"), member("../../evil")),
        tar_of(member("images/pug_0.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")),
        tar_of(member("images", kind=tarfile.SYMTYPE, link="../../.."), member("images/pug_0.jpg")),
    ],
    ids=["dots", "link to a file", "link to a folder"],
)
def test_prepare_of_a_hostile_archive_changes_nothing(data: bytes, server: Server, tmp_path: Path) -> None:
    made = small("OxfordPets", server)
    hostile = tmp_path / "pets.tar"
    hostile.write_bytes(data)
    (tmp_path / "data" / "evil-neighbour").mkdir(parents=True)
    with pytest.raises(DataError, match="refused"):
        prepare(made.facts, tmp_path / "data", options(archives=(hostile,)))
    left = {path for path in everything(tmp_path / "data") if not path.endswith(".lock")}
    assert left <= {
        "oxford_pets/split_zhou_OxfordPets.json",
        "oxford_pets/.prepare/split_zhou_OxfordPets.json",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"data", "pets.tar"}


def test_prepare_refuses_a_bomb(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small("OxfordPets", server)
    monkeypatch.setattr(preparation, "SLACK_BYTES", 1000 - int(3e9 * made.facts.gigabytes[1]))
    mine = user_files(made, tmp_path / "mine", made.archives)
    with pytest.raises(HostileArchive, match="archive bomb"):
        prepare(made.facts, tmp_path / "data", options(archives=mine))
    assert not (tmp_path / "data" / "oxford_pets" / "images").exists()


# --- any names at all ---------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    ["..", ".", "", "a", "b", "a.jpg", "/", "~", "C:", "\\", "._x", " ", "é", "..a", "-", "a" * 300]
)
NAMES = st.one_of(st.lists(PIECES, min_size=1, max_size=5).map("/".join), st.text(min_size=1, max_size=30))
DEEP = "/".join(["a" * 200] * 25)
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(NAMES, KINDS, NAMES), min_size=1, max_size=6), st.sampled_from(["tar", "zip"]))
@example([(DEEP, tarfile.REGTYPE, "x")], "tar")
@example([("a", tarfile.SYMTYPE, DEEP)], "tar")
@example([("a", tarfile.SYMTYPE, ".."), ("a/victim", tarfile.REGTYPE, "x")], "tar")
@example([("a", tarfile.SYMTYPE, "b"), ("b", tarfile.SYMTYPE, ".."), ("a/victim", tarfile.REGTYPE, "x")], "tar")
def test_no_name_reaches_beyond_the_target(members: list[tuple[str, bytes, str]], kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = folder / "in" / "target"
        target.mkdir(parents=True)
        (folder / "in" / "victim").write_text("mine")
        archive = folder / "archive"
        try:
            if kind == "tar":
                made = [member(path, b"owned", kind=type_, link=where) for path, type_, where in members]
                archive.write_bytes(tar_of(*made))
            else:
                files = {path: b"owned" for path, type_, _ in members if type_ != tarfile.SYMTYPE}
                links = {path: where for path, type_, where in members if type_ == tarfile.SYMTYPE}
                archive.write_bytes(zipped(files, links))
        except (ValueError, IndexError, OSError):  # a name that the format cannot hold
            return
        with contextlib.suppress(DataError):
            archives.extract(archive, target, Budget(100_000))
        assert not any(path.is_symlink() for path in folder.rglob("*"))
        outside = {k: v for k, v in everything(folder).items() if not k.startswith("in/target/") and k != "archive"}
        assert outside == {"in/victim": b"mine"}
        assert all(path.lstat().st_nlink == 1 for path in target.rglob("*") if path.is_file())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=2000), st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\x00"]))
def test_any_bytes_end_in_a_sentence(data: bytes, start: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a").write_bytes(start + data)
        with pytest.raises(DataError):
            archives.extract(Path(name) / "a", Path(name) / "t", Budget(100_000))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3071), st.integers(0, 255))
def test_any_changed_byte_of_a_tar_is_harmless(at: int, value: int) -> None:
    data = bytearray(tarred({"a/b.jpg": b"1" * 600, "c.jpg": b"2"}, "w"))
    data[at] = value
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a").write_bytes(data)
        (Path(name) / "in" / "t").mkdir(parents=True)
        with contextlib.suppress(DataError):
            archives.extract(Path(name) / "a", Path(name) / "in" / "t", Budget(100_000))
        assert {path.name for path in Path(name).iterdir()} == {"a", "in"}
        assert [path.name for path in (Path(name) / "in").iterdir()] == ["t"]
