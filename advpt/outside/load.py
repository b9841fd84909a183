"""A model by the name that the user gives on the command line: ``my.module:make``."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from advpt.errors import AdvPTError, ModelError, unknown_name
from advpt.outside.model import OutsideModel, outside_model, raised


def load(text: str) -> OutsideModel:
    """The model that ``MODULE:NAME`` names: NAME is a function without arguments that makes it, or the model itself.

    The module is imported from the current directory, PYTHONPATH or the installation: its code runs. Give only what
    the user typed on the command line, never a text from a file, a configuration or a record.

    Raises:
        ModelError: there is no such module or name, or its code raised: its own words, and where.
    """
    module_name, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise ModelError(
            f"model {text!r}: expected MODULE:NAME, for instance my.module:make, of a module that Python finds"
        )
    value = _import(text, module_name)
    for part in name.split("."):
        if not hasattr(value, part):
            known = [each for each in dir(value) if not each.startswith("_")]
            raise ModelError(f"model {text!r}: {unknown_name(f'name in {module_name}', part, known)}")
        value = getattr(value, part)
    if _makes(value):
        with _words(text):
            value = value()
        if value is None:
            raise ModelError(f"model {text!r}: {name}() gave nothing; expected that it returns the model")
    return outside_model(value, text)


def _import(text: str, name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # where `python -m` looks too; it stays, for what the module imports later
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ModelError(f"model {text!r}: importing {name}, {raised(error)}") from error
        raise ModelError(
            f"model {text!r}: there is no module {error.name}, neither in {here} nor on PYTHONPATH nor installed; "
            "start the command where it lies"
        ) from None
    except Exception as error:
        raise ModelError(f"model {text!r}: importing {name}, {raised(error)}") from error


def _makes(value: Any) -> bool:
    """Whether a value makes the model when it is called without arguments, and is not the model."""
    if isinstance(value, nn.Module | OutsideModel) or not callable(value):
        return False
    if not isinstance(value, type) and not inspect.isroutine(value):
        return False
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return isinstance(value, type)
    needed = [each for each in parameters if each.default is each.empty and each.kind < each.VAR_POSITIONAL]
    if isinstance(value, type) and needed:
        names = ", ".join(each.name for each in needed)
        raise ModelError(f"{value.__name__} needs {names} to be made; give a function without arguments that makes it")
    return not needed and not any(each.kind is each.VAR_POSITIONAL for each in parameters)


@contextlib.contextmanager
def _words(text: str) -> Iterator[None]:
    """Turn an exception of the user's code into a sentence."""
    try:
        yield
    except AdvPTError:
        raise
    except Exception as error:
        raise ModelError(f"model {text!r}: {raised(error)}") from error
