"""Reading checkpoints and weight files without running anything that they contain.

Everything goes through torch's own safe loader (``weights_only``). Beyond what that knows, it is given stand-ins for
NumPy's numbers and for the schedulers and optimizers that every CoOp run with warm-up pickles into its checkpoints.
"""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from advpt.errors import WeightsError, first_words
from advpt.files import file_digest
from advpt.signals import defer_signals

WRAPPERS = ("state_dict", "model")  # names under which training code puts a state dict


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """A file of safetensors, as ``safe_open`` gives it. A stop waits until it is closed: safetensors would take the
    exception of a signal for damage of the file."""
    with defer_signals(), safe_open(path, framework="pt") as file:
        yield file


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of safetensors, by name."""
    with open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


class Opaque:
    """Stands for an object of an old checkpoint that is neither needed nor built."""

    state: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NumberType:
    """Stands for ``numpy.dtype`` of one plain number; NumPy's own would take a crafted state at its word."""

    order = "<"

    def __init__(self, code: str, *args: Any) -> None:
        if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            raise pickle.UnpicklingError(f"it holds a NumPy object of type {code!r}")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _number(kind: _NumberType, data: bytes | str) -> Any:
    """The Python number in a pickled NumPy scalar."""
    data = data if isinstance(data, bytes) else data.encode("latin1")
    return np.frombuffer(data, np.dtype(f"{kind.order}{kind.code}"), count=1)[0].item()


def _empty_dict(*_: Any) -> dict[Any, Any]:
    """Stands for ``collections.defaultdict``, which torch's loader would not fill."""
    return {}


_STAND_INS: list[tuple[Any, str]] = [
    (dict, "builtins.dict"),
    (_empty_dict, "collections.defaultdict"),
    (_NumberType, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]
# Classes that Dassl's checkpoints pickle whole: read as Opaque, never imported.
_SET_ASIDE = re.compile(r"(torch|dassl|dass)\.optim(\.[a-z_0-9]+)*\.[A-Z]\w*")


def _names_in(path: Path) -> list[str] | None:
    """The names of the records in a file of torch's zip format; None for any other file."""
    try:
        return torch._C.PyTorchFileReader(str(path)).get_all_records()
    except (RuntimeError, UnicodeDecodeError):
        return None


def is_torchscript(path: Path) -> bool:
    """Whether torch would open the file as a TorchScript archive, which can contain code."""
    return "constants.pkl" in (_names_in(path) or ())


def _load(path: Path) -> Any:
    """What a file of ``torch.save`` holds; a damaged or hostile one raises any kind of error."""
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path) if _names_in(path) is not None else []
    set_aside = [(Opaque, name) for name in unknown if _SET_ASIDE.fullmatch(name)]
    with torch.serialization.safe_globals([*_STAND_INS, *set_aside]):
        return torch.load(path, map_location="cpu", weights_only=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A CoOp-style checkpoint (``state_dict``, ``epoch``, ...).

    Raises:
        WeightsError: the file is missing or damaged, asks for a name beyond those above, or has no ``state_dict``.
    """
    if not path.is_file():
        raise WeightsError(f"no checkpoint at {path}; name the folder of a finished run with --model-dir")
    if is_torchscript(path):
        raise WeightsError(f"{path} is a TorchScript archive; expected a checkpoint as Dassl writes it")
    try:
        loaded = _load(path)
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        pickled, advice = pickled_class(error), "It is no checkpoint of torch 1.6 or later, or it is damaged"
        if _names_in(path) is not None:
            advice = (
                "Only tensors, numbers and Dassl's schedulers are accepted; if you trust the file, save its state_dict "
                "anew with torch.save"
            )
        why = f"it wants to load {pickled}" if pickled else first_words(error)
        raise WeightsError(f"{path} cannot be read safely: {why}. {advice}") from error
    if not isinstance(loaded, dict) or not isinstance(loaded.get("state_dict"), dict):
        raise WeightsError(f"{path} holds no 'state_dict'; expected a checkpoint as Dassl writes it")
    return loaded


def read_state_dict(path: Path, expected: str, wrappers: Sequence[str] = WRAPPERS) -> dict[str, Tensor]:
    """The tensors by name in a file of safetensors or ``torch.save``, whatever training code has put around them.

    Args:
        path: the file. Its suffix tells safetensors from the rest.
        expected: what the file should hold, for messages ("CLIP weights").
        wrappers: entries that hold the state dict, from the outermost to the innermost.

    Raises:
        WeightsError: the file is damaged, holds pickled objects or no tensors.
    """
    tensors = tensors_in(read_content(path, expected), path, wrappers)
    if not tensors:
        raise WeightsError(f"{path} holds no state dict of tensors; expected {expected}")
    return tensors


def read_content(path: Path, expected: str) -> Any:
    """What a file of safetensors or ``torch.save`` holds; arguments and errors are those of :func:`read_state_dict`."""
    try:
        return load_safetensors(path) if path.suffix == ".safetensors" else _load(path)
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        if pickled := pickled_class(error):
            raise WeightsError(
                f"{path} holds a pickled object of {pickled}, which cannot be opened without running code; expected a "
                "state dict: where the model can be loaded, save torch.save(model.state_dict(), FILE)"
            ) from error
        raise unreadable(path, expected, error) from error


def tensors_in(content: Any, path: Path, wrappers: Sequence[str] = WRAPPERS) -> dict[str, Tensor]:
    """The tensors by name in what a file holds: wrappers are opened, other entries than tensors and prefixes
    ``module.`` are dropped. Empty where there are none.

    Args:
        path: the file, for messages. wrappers: as of :func:`read_state_dict`.

    Raises:
        WeightsError: two tensors of one name.
    """
    for wrapper in wrappers:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    entries = content.items() if isinstance(content, Mapping) else ()
    tensors = dict[str, Tensor]()
    for key, value in entries:
        if isinstance(key, str) and isinstance(value, Tensor):
            name = key.removeprefix("module.")
            if name in tensors:
                raise WeightsError(f"{path} holds {name} twice, with and without module. before it; save it anew")
            tensors[name] = value
    return tensors


def unreadable(path: Path, expected: str, error: BaseException) -> WeightsError:
    """The error for a file that does not hold what was ``expected``, with its SHA-256."""
    return WeightsError(
        f"{path} cannot be read as {expected} ({first_words(error)[:200]}); it may be damaged or cut off: compare its "
        f"SHA-256 ({file_digest(path)}) with its source's"
    )


def pickled_class(error: BaseException) -> str:
    """The class that torch's safe loader refused to load, "" where it refused something else."""
    refused = re.search(r"GLOBAL ([\w.]+) was not an allowed", str(error))
    return refused[1] if refused else ""
