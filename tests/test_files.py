"""Digests, atomic files, locks, and checkpoints that are read without being run."""

from __future__ import annotations

import builtins
import collections
import dataclasses
import hashlib
import io
import json
import operator
import os
import pickle
import socket
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advpt.errors import AdvPTError, BankError, StorageError, WeightsError
from advpt.files import (
    FileLock,
    Opaque,
    atomic_path,
    canonical_json,
    digest,
    file_digest,
    is_torchscript,
    load_checkpoint,
    load_tensors,
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


# --- checkpoints ----------------------------------------------------------------------------------------------------


class Warmup(torch.optim.lr_scheduler.LRScheduler):
    """Stands for Dassl's warm-up scheduler, whose state holds the scheduler that follows it."""

    def __init__(self, successor: Any) -> None:
        self.successor = successor
        super().__init__(successor.optimizer)

    def get_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]


def old_checkpoint(path: Path, scheduler: str = "cosine", **more: Any) -> Tensor:
    """What CoOp with warm-up writes; returns its context."""
    ctx = nn.Parameter(torch.randn(4, 8))
    optimizer = torch.optim.SGD([ctx], lr=0.002, momentum=0.9)
    ctx.sum().backward()
    optimizer.step()
    kinds = torch.optim.lr_scheduler
    successor = {
        "cosine": lambda: kinds.CosineAnnealingLR(optimizer, 50),
        "multi_step": lambda: kinds.MultiStepLR(optimizer, [10, 10, 20]),
        "step": lambda: kinds.StepLR(optimizer, 5),
    }[scheduler]()
    saved = {
        "state_dict": collections.OrderedDict(ctx=ctx.data, token_prefix=torch.zeros(3, 1, 8)),
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        "scheduler": Warmup(successor).state_dict(),
        "val_result": np.float64(71.5),
    }
    torch.save(saved | more, path)
    return ctx.data


@pytest.mark.parametrize("scheduler", ("cosine", "multi_step", "step"))
def test_a_checkpoint_of_coop_with_warm_up(scheduler: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar-50"
    ctx = old_checkpoint(path, scheduler)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # this is why there is a reader of our own
    found = load_checkpoint(path)
    assert torch.equal(found["state_dict"]["ctx"], ctx)
    assert found["epoch"] == 50 and found["val_result"] == 71.5
    assert isinstance(found["scheduler"]["successor"], Opaque)
    assert found["optimizer"]["param_groups"][0]["lr"] == 0.002


@pytest.mark.parametrize("number", (np.float32(1.5), np.int64(-3), np.bool_(True), np.dtype(">f8").type(2.5)))
def test_numpy_numbers_become_numbers(number: Any, tmp_path: Path) -> None:
    old_checkpoint(tmp_path / "c", best=number)
    assert load_checkpoint(tmp_path / "c")["best"] == number


def test_big_endian_numbers(tmp_path: Path) -> None:
    old_checkpoint(tmp_path / "c", best=np.array([2.5], ">f8")[0], kind=np.dtype(">f8"))
    assert load_checkpoint(tmp_path / "c")["best"] == 2.5


def test_a_plain_checkpoint_in_either_format_of_torch(tmp_path: Path) -> None:
    for new in (True, False):
        torch.save({"state_dict": {"ctx": torch.ones(2)}}, tmp_path / "c", _use_new_zipfile_serialization=new)
        assert torch.equal(load_checkpoint(tmp_path / "c")["state_dict"]["ctx"], torch.ones(2))


class Calls:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class Named:
    """Pickles as the name ``module.name``, whatever that is."""

    def __init__(self, module: str, name: str) -> None:
        self.where = module, name


class Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes :class:`Named` as a global, also names that do not exist."""

    dispatch = pickle._Pickler.dispatch.copy()  # type: ignore[attr-defined]

    def save_named(self, item: Named) -> None:
        module, name = item.where
        if self.proto >= 4:
            self.save(module)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    dispatch[Named] = save_named


def plant(path: Path, payload: Any, protocol: int) -> None:
    """A checkpoint with a payload beside good content, in torch's zip format."""
    data = io.BytesIO()
    Pickler(data, protocol).dump({"epoch": 1, "state_dict": {}, "scheduler": payload})
    torch.save({"state_dict": {}}, path)
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, data.getvalue() if name.endswith("/data.pkl") else content)


class CallsNamed:
    def __init__(self, module: str, name: str, *args: Any) -> None:
        self.function, self.args = Named(module, name), args


def _save_call(self: Any, item: CallsNamed) -> None:
    self.save(item.function)
    self.save(item.args)
    self.write(pickle.REDUCE)


Pickler.dispatch[CallsNamed] = _save_call


def payloads(marker: Path) -> dict[str, Any]:
    touch = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch '{marker}'"),
        "builtins.exec": Calls(builtins.exec, touch),
        "builtins.eval": Calls(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "builtins.open": Calls(builtins.open, str(marker), "w"),
        "getattr of getattr": CallsNamed("builtins", "getattr", CallsNamed("builtins", "__import__", "os"), "system"),
        "operator.attrgetter": Calls(operator.attrgetter, "system"),
        "functools.partial": Calls(__import__("functools").partial, os.system, "true"),
        "subprocess": Calls(subprocess.call, ["touch", str(marker)]),
        "torch.load": Calls(torch.load, str(marker)),
        "dotted optim": CallsNamed("torch.optim.sgd", "torch.os.system", f"touch '{marker}'"),
        "dotted dassl": CallsNamed("dassl.optim.lr_scheduler", "os.system", f"touch '{marker}'"),
        "dotted harmless": CallsNamed("collections", "OrderedDict.fromkeys", [1]),
        "optim neighbour": CallsNamed("torch.optimizer", "SGD"),
        "dict subclass": CallsNamed("builtins", "type", "X", (), {}),
        "object array": CallsNamed("numpy", "dtype", "O8"),
        "structured scalar": CallsNamed("numpy", "dtype", [("a", "O")]),
    }


@pytest.mark.parametrize("protocol", (2, 4))
@pytest.mark.parametrize("kind", payloads(Path("x")))
def test_a_planted_payload_is_refused_and_does_not_run(kind: str, protocol: int, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pth.tar-1", tmp_path / "it-ran"
    plant(path, payloads(marker)[kind], protocol)
    with pytest.raises(WeightsError, match=r"model.pth.tar-1 cannot be read safely"):
        load_checkpoint(path)
    assert not marker.exists()


def test_a_payload_in_place_of_the_whole_file(tmp_path: Path) -> None:
    path, marker = tmp_path / "c", tmp_path / "it-ran"
    path.write_bytes(pickle.dumps(Calls(os.system, f"touch '{marker}'")))
    with pytest.raises(WeightsError, match="cannot be read safely"):
        load_checkpoint(path)
    torch.save(Calls(os.system, f"touch '{marker}'"), path, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match="cannot be read safely"):
        load_checkpoint(path)
    assert not marker.exists()


def test_old_formats_are_left_to_torchs_own_safe_reader(tmp_path: Path) -> None:
    """Its other readers look into source files and write patches before any unpickler is asked."""
    path = tmp_path / "c"
    torch.save({"state_dict": {}, "scheduler": Warmup}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match="no checkpoint of torch 1.6 or later"):
        load_checkpoint(path)


def test_optimizers_are_set_aside_not_built(tmp_path: Path) -> None:
    plant(tmp_path / "c", CallsNamed("torch.optim.no_such_module", "Anything", 1, "two"), 2)
    assert isinstance(load_checkpoint(tmp_path / "c")["scheduler"], Opaque)
    assert "torch.optim.no_such_module" not in sys.modules


class Changes:
    """Pickles as ``target`` with new attributes."""

    def __init__(self, module: str, name: str) -> None:
        self.target = Named(module, name)


def _save_change(self: Any, item: Changes) -> None:
    self.save(item.target)
    self.save((None, {"__name__": "changed", "dump_patches": True}))
    self.write(pickle.BUILD)


Pickler.dispatch[Changes] = _save_change


@pytest.mark.parametrize(
    ("module", "name"),
    (("torch._utils", "_rebuild_tensor_v2"), ("_codecs", "encode"), ("collections", "OrderedDict"), ("numpy", "dtype")),
)
def test_a_pickle_cannot_change_what_it_may_call(module: str, name: str, tmp_path: Path) -> None:
    plant(tmp_path / "c", Changes(module, name), 2)
    with pytest.raises(WeightsError):
        load_checkpoint(tmp_path / "c")
    assert torch._utils._rebuild_tensor_v2.__name__ == "_rebuild_tensor_v2"
    assert not hasattr(torch._utils._rebuild_tensor_v2, "dump_patches")


def test_torchscript_archives_are_never_opened(
    tiny_archive: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the archive was opened"))
    with pytest.raises(WeightsError, match="is a TorchScript archive; expected a checkpoint"):
        load_checkpoint(tiny_archive)
    (tmp_path / "text").write_text("hello")
    assert [is_torchscript(p) for p in (tiny_archive, tiny_weights, tmp_path / "text")] == [True, False, False]


def test_damaged_checkpoints(tmp_path: Path) -> None:
    old_checkpoint(tmp_path / "whole")
    whole, damaged = (tmp_path / "whole").read_bytes(), tmp_path / "damaged"
    for place in range(0, len(whole), len(whole) // 70):
        for data in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            damaged.write_bytes(data)
            try:
                load_checkpoint(damaged)
            except WeightsError as error:
                assert str(damaged) in str(error)


def test_files_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no checkpoint at .*--model-dir"):
        load_checkpoint(tmp_path / "none")
    for content in ({"ctx": torch.zeros(1)}, [1], {"state_dict": 3}):
        torch.save(content, tmp_path / "c")
        with pytest.raises(WeightsError, match="holds no 'state_dict'"):
            load_checkpoint(tmp_path / "c")


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


@pytest.mark.parametrize("old", (False, True), ids=("zip", "older than torch 1.6"))
def test_a_pickled_module_is_named_without_a_terminals_codes(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "m.pt"
    torch.save(nn.Linear(1, 1), path, _use_new_zipfile_serialization=not old)
    with pytest.raises(WeightsError, match=r"it wants to load torch\.nn\.modules\.linear\.Linear\. [OI]") as caught:
        load_tensors(path)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)
