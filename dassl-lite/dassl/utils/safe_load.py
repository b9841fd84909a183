"""Open checkpoints without running code from them.

New files hold tensors and plain values only. Files written by upstream with warm-up on also hold a scheduler
object and, through it, an optimizer object. Those are read by an unpickler that knows a short list of names
and builds inert stand-ins: no optimizer, no scheduler and no other code of the file's choosing runs.
"""

import collections
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch._utils


class UnsafeCheckpointError(pickle.UnpicklingError):
    """A checkpoint asks for a name outside the short list."""


class Opaque:
    """Stand-in for a pickled scheduler or optimizer: its fields, none of its behaviour."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise UnsafeCheckpointError(f"the state of a {type(self).__name__} is no dict")
        self.__dict__.update(state)


class _DType:
    """Stand-in for the numpy type of a stored number."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", str(code)):
            raise UnsafeCheckpointError(f"numpy type {code!r} is not a number")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _number(dtype: _DType, data: bytes) -> float | int | bool:
    if type(dtype) is not _DType or "code" not in vars(dtype):
        raise UnsafeCheckpointError("a numpy number without a numpy type")
    return np.frombuffer(data, dtype=dtype.order + dtype.code, count=1)[0].item()


def _to_bytes(text: str, encoding: str = "latin1") -> bytes:
    return str(text).encode("latin1")


def _stand_ins() -> dict[tuple[str, str], Any]:
    names = [("torch.optim.lr_scheduler", name) for name in ("CosineAnnealingLR", "StepLR", "MultiStepLR")]
    names += [(f"torch.optim.{name.lower()}", name) for name in ("SGD", "Adam", "AdamW", "RMSprop")]
    names += [("dassl.optim.radam", "RAdam")]
    names += [("dassl.optim.lr_scheduler", name) for name in ("ConstantWarmupScheduler", "LinearWarmupScheduler")]
    return {(module, name): type(name, (Opaque,), {}) for module, name in names}


ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("collections", "Counter"): collections.Counter,
    ("__builtin__", "dict"): dict,
    ("builtins", "dict"): dict,
    ("_codecs", "encode"): _to_bytes,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    **_stand_ins(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Exact pairs only. The parent method, which walks dotted names, is never called.
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise UnsafeCheckpointError(f"it asks for {module}.{name}") from None


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


_RESTRICTED = SimpleNamespace(__name__="dassl.utils.safe_load", Unpickler=_Unpickler, load=_load)


def safe_load(path: str | Path, map_location: Any = None) -> Any:
    """``torch.load`` that reads tensors and plain values, and warm-up checkpoints of upstream.

    Raises:
        UnsafeCheckpointError: if the file asks for anything else; the message names it and the file.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception:  # noqa: BLE001 - the second attempt says what is wrong
        pass
    try:
        return torch.load(path, map_location=map_location, weights_only=False, pickle_module=_RESTRICTED)
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"{path}: refused to load: {error}. A checkpoint needs no such thing; it may be hostile."
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise pickle.UnpicklingError(f"{path}: not a checkpoint, or a damaged one ({error})") from error
