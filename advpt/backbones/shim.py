"""OpenAI's ``clip`` package, whatever else is called ``clip`` on the import path.

Many CoOp-style checkouts carry a modified package of that name. So the installed distribution is looked up by its
metadata and loaded under a private name; no other ``clip``, imported or not, is used or changed.

The distribution `openai-clip` 1.0.1 says ``from pkg_resources import packaging``; setuptools 81 and later no
longer ship ``pkg_resources``. The name is supplied for the time of that one import and taken away again; where
the import works by itself (older setuptools, the mended official repository) nothing is touched.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from advpt.errors import AdvPTError

NAME = "advpt.backbones._openai_clip"  # in sys.modules; its classes are pickled under it
DISTRIBUTIONS = ("openai-clip", "clip")  # on PyPI, and as the official repository calls itself
FILES = ("__init__.py", "clip.py", "model.py", "simple_tokenizer.py")  # PyPI's `clip` is another program


def import_clip() -> types.ModuleType:
    """OpenAI's package under its private name, with its modules ``clip``, ``model`` and ``simple_tokenizer``.

    Raises:
        AdvPTError: OpenAI's distribution is not installed, or its import fails.
    """
    if NAME in sys.modules:
        return sys.modules[NAME]
    folder = package_folder()
    if folder is None:
        raise AdvPTError(
            "OpenAI's CLIP is not installed: no distribution 'openai-clip' was found (a folder that is only called "
            "'clip' is not used). Install it with: pip install openai-clip"
        )
    try:
        try:
            return _load(folder)
        except ImportError as error:
            if error.name != "pkg_resources":
                raise
        with _pkg_resources():
            return _load(folder)
    except ImportError as error:
        raise AdvPTError(
            f"CLIP's model code in {folder} cannot be imported ({error}); install it again with: "
            "pip install --force-reinstall --no-deps openai-clip, and what it needs with: pip install ftfy regex tqdm"
        ) from error


def package_folder() -> Path | None:
    """The folder of the package in OpenAI's installed distribution; None where it is not installed."""
    for name in DISTRIBUTIONS:
        for distribution in distributions(name=name):
            for top in _tops(distribution):
                if all((top / "clip" / file).is_file() for file in FILES):
                    return top / "clip"
    return None


def _tops(distribution: Distribution) -> Iterator[Path]:
    """Folders that may have a distribution's packages: beside its metadata, or the source of an editable install."""
    yield Path(str(distribution.locate_file("")))
    with contextlib.suppress(ValueError, AttributeError):  # not JSON, not an object
        url = urlsplit(json.loads(distribution.read_text("direct_url.json") or "{}").get("url", ""))
        if url.scheme == "file":
            yield Path(url2pathname(url.path))


def _load(folder: Path) -> types.ModuleType:
    """Import the package in ``folder`` as ``NAME``; after an error nothing of it stays behind."""
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is not a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for name in [name for name in sys.modules if name == NAME or name.startswith(f"{NAME}.")]:
            del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _pkg_resources() -> Iterator[None]:
    """Within the block ``from pkg_resources import packaging`` works; what was there before comes back."""
    import packaging
    import packaging.version  # `packaging.version.parse` is what clip calls

    stand_in = types.ModuleType("pkg_resources")
    stand_in.packaging = packaging  # type: ignore[attr-defined]
    before = sys.modules.get("pkg_resources")  # there, but without the name `packaging`
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        if before is not None:
            sys.modules["pkg_resources"] = before
        elif sys.modules.get("pkg_resources") is stand_in:
            del sys.modules["pkg_resources"]


def offer_clip(download_root: Path) -> None:
    """Let trainers of other repositories find OpenAI's package by the name ``clip``; for the program that runs them.

    CoOp-style trainers say ``from clip import clip`` and ``clip._download(url)``; the folder that the latter has as
    its default there is ``download_root`` here. A ``clip`` that is imported already, or that the import path has from
    elsewhere than OpenAI's distribution, is what those files mean, and stays.
    """
    folder = package_folder()
    if folder is None or "clip" in sys.modules:
        return
    spec = importlib.util.find_spec("clip")
    if spec is not None and [Path(place).resolve() for place in spec.submodule_search_locations or ()] != [
        folder.resolve()
    ]:
        return
    package = import_clip()
    names = {"clip": types.ModuleType("clip"), "clip.clip": types.ModuleType("clip.clip")}
    vars(names["clip"]).update(vars(package))
    vars(names["clip.clip"]).update(vars(package.clip))
    names["clip"].clip = names["clip.clip"]  # type: ignore[attr-defined]
    names["clip.clip"]._download = functools.partial(  # type: ignore[attr-defined]
        package.clip._download, root=str(download_root)
    )
    sys.modules.update(names | {"clip.model": package.model, "clip.simple_tokenizer": package.simple_tokenizer})
