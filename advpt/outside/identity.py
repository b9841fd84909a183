"""What a Python object is made of, as far as that shows: modules, tensors, plain values, and the files of its code."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advpt.files import digest, file_digest, tensor_digest
from advpt.schema import JsonObject

COVERS = (
    "the tensors and the layers of every module, other tensors, numbers and texts that the object refers to, and the "
    "files of the code of its classes and functions. Not covered: what these import from elsewhere, its "
    "weights too, files that are read later, and what objects of C code hold"
)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype)
_OTHERS = frozenset(sys.stdlib_module_names) | {"torch", "numpy", "advpt"}  # whose code is not part of a model
_OF_MODULES = vars(nn.Module()).keys()  # their parts are walked apart
_PLACE = re.compile(r" at 0x[0-9a-f]+")  # in memory


@dataclass
class Parts:
    """What an object is made of, by dotted path from it.

    Args:
        modules: those that are part of no other one. values: as text. files: of code, with their SHA-256.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)

    def facts(self) -> JsonObject:
        """Their digests: what the identity of a model is made of."""
        return {
            "tensors": tensor_digest(self.tensors),
            "values": digest(self.values),
            "code": sorted(set(self.files.values())),
        }


def parts_of(roots: Mapping[str, Any]) -> Parts:
    """The parts of several objects by name, each part once."""
    walk = _Walk(Parts())
    for name, root in roots.items():
        walk.visit(name, root)
    return walk.parts


@contextlib.contextmanager
def frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules in evaluation mode with parameters that take no gradient; as before afterwards."""
    modules = list(modules)
    training = {each: each.training for module in modules for each in module.modules()}
    wanted = {weight: weight.requires_grad for module in modules for weight in module.parameters()}
    try:
        for module in modules:
            module.eval()
        for weight in wanted:
            weight.requires_grad_(False)
        yield
    finally:
        for each, mode in training.items():
            each.training = mode
        for weight, value in wanted.items():
            weight.requires_grad_(value)


@dataclass
class _Walk:
    parts: Parts
    visited: dict[int, Any] = field(default_factory=dict)  # by id; kept, so that no other object gets this id

    def visit(self, path: str, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.parts.values[path] = repr(value)
            return
        if id(value) in self.visited or isinstance(value, types.ModuleType | Path):
            return
        self.visited[id(value)] = value
        if isinstance(value, type):
            self._class(path, value)
        elif isinstance(value, Tensor):
            self._tensor(path, value)
        elif isinstance(value, np.ndarray):
            self._array(path, value)
        elif isinstance(value, nn.Module):
            self._module(path, value)
        elif isinstance(value, Mapping):
            for key, each in value.items():
                self.visit(f"{path}.{_PLACE.sub('', str(key))}", each)
        elif isinstance(value, list | tuple | set | frozenset):
            for i, each in enumerate(value if isinstance(value, list | tuple) else sorted(value, key=repr)):
                self.visit(f"{path}.{i}", each)
        elif isinstance(value, functools.partial):
            self.visit(path, [value.func, value.args, value.keywords])
        elif isinstance(value, types.MethodType):
            self.visit(path, value.__self__)
            self.visit(f"{path}()", value.__func__)
        elif isinstance(value, types.FunctionType):
            self._function(path, value)
        else:
            self._object(path, value)

    def _tensor(self, path: str, value: Tensor) -> None:
        self.parts.tensors[path] = value
        if value.dtype != torch.float32:  # a digest of tensors does not tell half precision from float32
            self.parts.values[f"{path}.dtype"] = str(value.dtype)

    def _array(self, path: str, value: np.ndarray) -> None:
        if value.dtype.hasobject:
            self.visit(path, value.tolist())
        else:
            self.parts.values[path] = f"{value.dtype} {value.shape}"
            self.parts.tensors[path] = torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy())

    def _module(self, path: str, module: nn.Module) -> None:
        self.parts.modules[path] = module
        with contextlib.suppress(Exception):  # a repr of the user's own
            self.parts.values[f"{path}()"] = _PLACE.sub("", repr(module))
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            self._tensor(f"{path}.{name}", tensor)
        for name, each in module.named_modules():
            self.visited[id(each)] = each
            inside = f"{path}.{name}" if name else path
            self._class(inside, type(each))
            for key, value in vars(each).items():
                if key not in _OF_MODULES:
                    self.visit(f"{inside}.{key}", value)
            self.visit(f"{inside}.hooks", [*each._forward_pre_hooks.values(), *each._forward_hooks.values()])

    def _object(self, path: str, value: Any) -> None:
        self._class(path, type(value))
        names = dict(getattr(value, "__dict__", {}))
        if dataclasses.is_dataclass(value):
            names |= {each.name: getattr(value, each.name, None) for each in dataclasses.fields(value)}
        if _is_own(type(value)):
            for key, each in names.items():
                self.visit(f"{path}.{key}", each)

    def _class(self, path: str, kind: type) -> None:
        for each in kind.__mro__:
            if _is_own(each) and self._file(each):
                for name, member in vars(each).items():
                    function = getattr(member, "__func__", getattr(member, "fget", member))
                    if isinstance(function, types.FunctionType):
                        self.visit(f"{path}.{each.__qualname__}.{name}", function)

    def _function(self, path: str, function: types.FunctionType) -> None:
        function = inspect.unwrap(function)
        if not _is_own(function) or not isinstance(function, types.FunctionType):
            return
        code = function.__code__
        constants = tuple(each for each in code.co_consts if isinstance(each, _PLAIN))
        about = (function.__qualname__, code.co_firstlineno, code.co_names, constants)  # which one of its file
        self.parts.values[f"{path}()"] = repr(about if self._file(function) else (*about, code.co_code))
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            with contextlib.suppress(ValueError):  # empty until its function has run
                self.visit(f"{path}.{name}", cell.cell_contents)
        self.visit(f"{path}.defaults", [function.__defaults__ or (), function.__kwdefaults__ or {}])
        for name in sorted(_names(code) & function.__globals__.keys()):
            value = function.__globals__[name]
            if isinstance(value, type | types.FunctionType):
                if _is_own(value) and value.__module__ == function.__module__:
                    self.visit(f"{path}.{name}", value)
                elif _is_own(value):
                    self._file(value)
            elif isinstance(value, (*_PLAIN, Tensor, np.ndarray, nn.Module, list, tuple, dict)) or _is_own(type(value)):
                self.visit(f"{path}.{name}", value)

    def _file(self, code: Any) -> bool:
        """Note the file of a class or function; whether there is one."""
        with contextlib.suppress(TypeError, OSError):
            path = Path(inspect.getsourcefile(code) or "")
            if path.is_file():
                if path not in self.parts.files:
                    self.parts.files[path] = file_digest(path)
                return True
        return False


def _is_own(code: Any) -> bool:
    """Whether a class or function is code of the model, and not of Python or torch."""
    return (getattr(code, "__module__", None) or "builtins").partition(".")[0] not in _OTHERS


def _names(code: types.CodeType) -> set[str]:
    """Names of globals in the code of a function and of those inside it."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))
