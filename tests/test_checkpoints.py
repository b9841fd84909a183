"""Checkpoints and weight files are read without being run."""

from __future__ import annotations

import builtins
import collections
import io
import operator
import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from advpt import checkpoints
from advpt.checkpoints import Opaque, is_torchscript, load_checkpoint, load_safetensors, read_state_dict
from advpt.errors import WeightsError
from advpt.signals import Terminated, stoppable

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


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


@pytest.mark.parametrize("old", (False, True), ids=("zip", "older than torch 1.6"))
def test_a_pickled_module_is_named_without_a_terminals_codes(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "m.pt"
    torch.save(nn.Linear(1, 1), path, _use_new_zipfile_serialization=not old)
    with pytest.raises(WeightsError, match=r"it wants to load torch\.nn\.modules\.linear\.Linear\. [OI]") as caught:
        load_checkpoint(path)
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


# --- state dicts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    (
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict": {"model": state}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: state | {"input_resolution": 224, 3: torch.ones(1)},
    ),
    ids=("plain", "wrapper", "two wrappers", "module.", "other entries"),
)
def test_a_state_dict_in_every_form_that_training_code_writes(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    state = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    torch.save(wrap(state), tmp_path / "w.pt")
    found = read_state_dict(tmp_path / "w.pt", "weights")
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def test_the_first_wrapper_that_is_there_is_opened(tmp_path: Path) -> None:
    torch.save({"tower": {"a": torch.ones(1)}, "state_dict": {"b": torch.ones(1)}}, tmp_path / "w.pt")
    assert read_state_dict(tmp_path / "w.pt", "weights").keys() == {"b"}
    assert read_state_dict(tmp_path / "w.pt", "weights", ("tower", "state_dict")).keys() == {"a"}


def test_a_state_dict_in_safetensors_and_in_a_checkpoint_with_schedulers(tmp_path: Path) -> None:
    save_file({"module.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    assert read_state_dict(tmp_path / "w.safetensors", "weights").keys() == {"weight"}
    old_checkpoint(tmp_path / "model.pth.tar-50")
    assert read_state_dict(tmp_path / "model.pth.tar-50", "weights").keys() == {"ctx", "token_prefix"}


def test_files_without_a_state_dict_say_what_was_expected(tmp_path: Path) -> None:
    for content in ([1, 2], {"a": 1}, {3: torch.zeros(1)}, torch.zeros(2), {"state_dict": {}}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=r"w\.pt holds no state dict of tensors; expected CLIP weights"):
            read_state_dict(tmp_path / "w.pt", "CLIP weights")
    (tmp_path / "w.safetensors").write_bytes(b"text")
    with pytest.raises(WeightsError, match=r"cannot be read as CLIP weights .*compare its SHA-256"):
        read_state_dict(tmp_path / "w.safetensors", "CLIP weights")
    torch.save(nn.Linear(1, 1), tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"holds a pickled object of torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(tmp_path / "w.pt", "CLIP weights")


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_stop_while_safetensors_are_read_waits_and_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    class Interrupted:
        """A file whose reader takes the exception of a signal for damage, as safetensors' own does."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.closed = False

        def __enter__(self) -> Interrupted:
            return self

        def __exit__(self, *error: object) -> None:
            self.closed = True

        def keys(self) -> list[str]:
            return ["a"]

        def get_tensor(self, name: str) -> Tensor:
            try:
                os.kill(os.getpid(), number)
                return torch.zeros(1)
            except KeyboardInterrupt as error:
                raise SafetensorError("could not determine the shape") from error

    monkeypatch.setattr(checkpoints, "safe_open", Interrupted)
    with pytest.raises(KeyboardInterrupt) as stop, stoppable():
        load_safetensors(tmp_path / "any.safetensors")
    assert isinstance(stop.value, Terminated) == (number == signal.SIGTERM)


def test_no_other_module_opens_safetensors_itself() -> None:
    product = Path(checkpoints.__file__).parent
    opening = {path.name for path in product.rglob("*.py") if re.search(r"\b(safe_open|load_file)\b", path.read_text())}
    assert opening == {"checkpoints.py"}
