"""Digests, atomic files, locks, and checkpoints that are read without being run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advpt import files
from advpt.errors import AdvPTError, BankError, StorageError
from advpt.files import (
    FileLock,
    atomic_path,
    canonical_json,
    digest,
    file_digest,
    network_timeout,
    printable,
    read_json,
    read_text,
    tensor_digest,
    write_json,
    write_text,
)

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")
REPOSITORY = Path(__file__).resolve().parents[1]

# --- canonical JSON -------------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_canonical_json_says_the_value_and_nothing_else(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert text.isascii() and canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), values, min_size=2, max_size=6), st.randoms())
def test_order_of_a_mapping_does_not_matter(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    assert digest(dict(items)) == digest(value)


def test_canonical_form_by_example() -> None:
    @dataclasses.dataclass
    class Point:
        y: int
        x: tuple[float, ...]

    assert canonical_json({"b": (1, 2), "a": Point(1, (0.5,)), "é": None}) == (
        '{"a":{"x":[0.5],"y":1},"b":[1,2],"\\u00e9":null}'
    )
    assert digest([1, "a"]) == hashlib.sha256(b'[1,"a"]').hexdigest()
    assert digest([1]) != digest([1.0])  # whoever stores a number says which kind it is


def test_values_without_a_canonical_form() -> None:
    for bad in (float("nan"), float("inf"), [-float("inf")]):
        with pytest.raises(ValueError):
            canonical_json(bad)
    for bad in ({1, 2}, Path("a"), torch.zeros(1), int):
        with pytest.raises(TypeError, match="has no canonical form"):
            canonical_json({"a": bad})


# --- tensors and files ----------------------------------------------------------------------------------------------


def test_tensor_digest_is_of_values_not_of_storage() -> None:
    g = torch.Generator().manual_seed(0)
    half = torch.randn(4, 6, generator=g).half()
    same = [
        {"w": half, "n": torch.tensor(3)},
        {"n": torch.tensor(3), "w": half.float()},
        {"w": half.double(), "n": torch.tensor(3)},
        {"w": half.t().contiguous().t(), "n": torch.tensor(3)},
        {"w": torch.cat([half, half])[:4], "n": torch.tensor(3)},
        {"w": nn.Parameter(half.float()), "n": torch.tensor(3)},
    ]
    assert len({tensor_digest(tensors) for tensors in same}) == 1


def test_tensor_digest_notices_every_difference() -> None:
    w = torch.arange(6.0).view(2, 3)
    moved = w.clone()
    moved[0, 0] = torch.nextafter(moved[0, 0], torch.tensor(1.0))
    different = [
        {"w": w},
        {"v": w},
        {"w": moved},
        {"w": w.view(3, 2)},
        {"w": w.view(6)},
        {"w": w.long()},
        {"w": w.bool()},
        {"w": w, "b": w},
        {"w": w[:0]},
        {},
    ]
    assert len({tensor_digest(tensors) for tensors in different}) == len(different)


def test_tensor_digest_never_changes() -> None:
    """Banks that exist carry these hashes."""
    expected = hashlib.sha256(b"w:torch.float32:[2];" + np.array([1, 2], "<f4").tobytes()).hexdigest()
    assert tensor_digest({"w": torch.tensor([1.0, 2.0])}) == expected


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 300_000)
    assert file_digest(tmp_path / "f") == hashlib.sha256(b"x" * 300_000).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_atomic_path_replaces_the_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "f.txt"
    for text in ("first", "second"):
        with atomic_path(target) as partial:
            partial.write_text(text)
            assert not target.exists() or target.read_text() == "first"
        assert target.read_text() == text and names(target.parent) == ["f.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "f.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as partial:
        partial.write_text("half of the ne")
        raise KeyboardInterrupt
    with pytest.raises(StorageError, match="f.txt could not be written"), atomic_path(target):
        pass  # nothing was written
    assert target.read_text() == "old" and names(tmp_path) == ["f.txt"]
    with pytest.raises(TypeError):
        write_json(tmp_path / "g.json", {"a": object()})
    with pytest.raises(ValueError):
        write_json(tmp_path / "g.json", {"a": float("nan")})
    assert names(tmp_path) == ["f.txt"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.atomic_folder(tmp_path / "set" / "images") as partial:
        (partial / "a").touch()
        raise KeyError
    assert names(tmp_path / "set") == []
    with files.atomic_folder(tmp_path / "set" / "images") as partial:
        (partial / "a").touch()
        assert not (tmp_path / "set" / "images").exists()
    assert names(tmp_path / "set") == ["images"] and names(tmp_path / "set" / "images") == ["a"]
    with files.atomic_folder(tmp_path / "set" / "images") as partial:  # the second of two writers
        (partial / "b").touch()
    assert names(tmp_path / "set") == ["images"] and names(tmp_path / "set" / "images") == ["a"]


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": "é"})
    assert path.read_text() == '{\n "a": "\\u00e9",\n "b": 1\n}\n'
    assert read_json(path) == {"a": "é", "b": 1}
    with pytest.raises(BankError, match="none.json does not exist"):
        read_json(tmp_path / "none.json", BankError)
    for content in (b"{", b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(AdvPTError, match="a.json is not valid JSON.*delete it"):
            read_json(path)


def test_text_files_are_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "naïve\n")
    assert (tmp_path / "t").read_bytes() == "naïve\n".encode()


# --- locks ----------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from advpt.files import FileLock
assert FileLock(Path(sys.argv[1])).acquire(wait=False)
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_lock_between_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        lock = FileLock(path)
        assert not lock.acquire(wait=False)
        lock.release()  # of a lock that was not taken: nothing happens
        other.kill()  # however its holder ends
        other.wait()
        assert lock.acquire(wait=True)
        assert not FileLock(path).acquire(wait=False)
        lock.release()
        again = FileLock(path)
        assert again.acquire(wait=False)
        again.release()


def test_with_a_lock_waits_for_the_one_that_has_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first, order = FileLock(tmp_path / "lock"), []

    def second() -> None:
        with FileLock(tmp_path / "lock", "the bank"):
            order.append("second")

    thread = threading.Thread(target=second)
    with pytest.raises(KeyError), first:
        thread.start()
        while "waiting for another process that works on the bank" not in caplog.text:
            time.sleep(0.01)
        order.append("first")
        raise KeyError
    thread.join()
    assert order == ["first", "second"]
    assert first.acquire(wait=False)
    with first:  # taken already: released at the end
        assert not FileLock(tmp_path / "lock").acquire(wait=False)
    assert FileLock(tmp_path / "lock").acquire(wait=False)


def test_half_a_character_in_json_is_refused_and_a_whole_one_is_not(tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"protocol": "\\ud800"}')
    with pytest.raises(BankError, match="record.json is not valid JSON.*surrogates"):
        read_json(path, BankError)
    path.write_text('{"protocol": "\\ud83d\\ude00"}')
    assert read_json(path, BankError) == {"protocol": "\U0001f600"}


def test_downloads_without_a_limit_of_their_own_end_where_nothing_arrives() -> None:
    before = socket.getdefaulttimeout()
    server = socket.create_server(("127.0.0.1", 0))
    with server as silent, network_timeout(0.2), pytest.raises(OSError, match="timed out"):
        urllib.request.urlopen(f"http://127.0.0.1:{silent.getsockname()[1]}/a")
    assert socket.getdefaulttimeout() == before


@pytest.mark.parametrize("newline", ("\n", "\r\n", "\r"))
def test_text_is_utf8_with_or_without_a_mark(tmp_path: Path, newline: str) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "a.txt").write_bytes(newline.join(("één", "zwei", "")).encode(encoding))
        assert read_text(tmp_path / "a.txt") == "één\nzwei\n"


@pytest.mark.parametrize(
    ("content", "says"),
    (
        ("één zwei".encode("utf-16"), r"a\.txt is in UTF-16.*expected UTF-8.*iconv -f UTF-16 -t UTF-8"),
        ("one two".encode("utf-16-le"), "is in UTF-16"),
        ("one two".encode("utf-16-be"), "is in UTF-16"),
        ("één".encode("latin-1"), r"a\.txt is not in UTF-8 \(byte 0xe9 at position 0\).*iconv -f LATIN1 -t UTF-8"),
    ),
)
def test_text_in_another_encoding_is_a_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BankError, match=says):
        read_text(tmp_path / "a.txt", BankError)


def test_names_that_are_not_utf8_are_printable() -> None:
    assert printable("caf\udce9.png") == r"caf\xe9.png" and printable("naïve 🙂") == "naïve 🙂"
    assert printable("\ud83d") == r"\ud83d"
