"""Packages that come with an extra of this project, imported when they are first needed, and open_clip's own tables."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from advpt.errors import WeightsError, first_words

EXTRA_OF = {
    "open_clip": "openclip",
    "timm": "openclip",
    "huggingface_hub": "openclip",
    "tokenizers": "siglip",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
}


def versions(packages: Iterable[str] = ("open_clip", "timm", "tokenizers")) -> dict[str, str]:
    """Versions of those of ``packages`` that this process has imported; by default of all that numbers depend on."""
    imported = {name: sys.modules.get(name) for name in packages}
    return {name: str(getattr(module, "__version__", "")) for name, module in imported.items() if module is not None}


def need(module: str, purpose: str) -> ModuleType:
    """The package called ``module``.

    Args:
        module: a key of :data:`EXTRA_OF`. purpose: what it is needed for, for the message.

    Raises:
        WeightsError: it is not installed, or its import fails.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        why = (
            "is not installed" if getattr(error, "name", "") == module else f"cannot be imported: {first_words(error)}"
        )
        raise WeightsError(
            f'{purpose} needs the package {module}, which {why}. Run pip install "advpt[{EXTRA_OF[module]}]"'
        ) from error


def _open_clip() -> ModuleType:
    return need("open_clip", "a model of open_clip")


@functools.cache
def architectures() -> tuple[str, ...]:
    """The names of open_clip's built-in architectures."""
    return tuple(_open_clip().list_models())


def architecture(name: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture, as it stands in its JSON file."""
    config: dict[str, Any] = _open_clip().get_model_config(name)
    return config


def tags(architecture: str) -> tuple[str, ...]:
    """The names of an architecture's published weights."""
    return tuple(_open_clip().list_pretrained_tags_by_model(architecture))


def tag(architecture: str, name: str) -> Mapping[str, Any]:
    """What open_clip's table says of published weights: repository, address, activation, preprocessing."""
    entry: dict[str, Any] = _open_clip().get_pretrained_cfg(architecture, name)
    return entry


def quick_of_repository(repository: str) -> bool | None:
    """Whether open_clip's table says quickgelu for the weights in a repository of the hub; None where it has none of
    them, or open_clip is not installed."""
    if importlib.util.find_spec("open_clip") is None:
        return None
    for name in architectures():
        for each in tags(name):
            entry = tag(name, each)
            if "/".join(str(entry.get("hf_hub", "")).split("/")[:2]) == repository:
                return bool(entry.get("quick_gelu", False))
    return None
