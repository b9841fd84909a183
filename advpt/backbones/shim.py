"""OpenAI's `clip` package, importable on a current Python.

The PyPI package `openai-clip` 1.0.1 says ``from pkg_resources import packaging``; setuptools 81 and later no
longer ship ``pkg_resources``. The name is supplied for the time of that one import and taken away again; where
the import works by itself (older setuptools, the mended official repository) nothing is touched.
"""

from __future__ import annotations

import importlib
import sys
import types

from advpt.errors import AdvPTError


def import_clip() -> types.ModuleType:
    """The module ``clip``, whatever setuptools is installed.

    Raises:
        AdvPTError: when no ``clip`` package of OpenAI's kind can be imported.
    """
    try:
        return _checked(importlib.import_module("clip"))
    except ImportError as error:
        if error.name != "pkg_resources":
            raise AdvPTError(
                f"CLIP's model code cannot be imported ({error}); install it with: pip install openai-clip"
            ) from error
    import packaging
    import packaging.version  # `packaging.version.parse` is what clip calls

    stand_in = types.ModuleType("pkg_resources")
    stand_in.packaging = packaging  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name == "clip" or name.startswith("clip.")]:
        del sys.modules[name]
    before = sys.modules.get("pkg_resources")  # there, but without the name `packaging`
    sys.modules["pkg_resources"] = stand_in
    try:
        return _checked(importlib.import_module("clip"))
    finally:
        if before is not None:
            sys.modules["pkg_resources"] = before
        elif sys.modules.get("pkg_resources") is stand_in:
            del sys.modules["pkg_resources"]


def _checked(clip: types.ModuleType) -> types.ModuleType:
    """``clip`` itself, if it is OpenAI's: a folder that merely has the name is refused."""
    if not hasattr(clip, "tokenize"):
        raise AdvPTError(
            f"the package 'clip' at {getattr(clip, '__file__', None) or list(clip.__path__)} is not OpenAI's "
            "(it has no tokenize); remove it from the import path and run: pip install openai-clip"
        )
    return clip
