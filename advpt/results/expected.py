"""Accuracies of zero-shot CLIP that are known: what papers print, and this project's own (``expected.toml``)."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class KnownNumbers:
    """Accuracies of zero-shot CLIP.

    Args:
        source: where they stand, in words.
        clean, robust: percent. images: that they are of.
        exact: they are of the very images that are evaluated again; else of more, of which those are a part.
    """

    source: str
    clean: float
    robust: float
    images: int
    exact: bool = False


@dataclass(frozen=True)
class KnownModel:
    """SHA-256 of a model's file, and the digests of its towers as records have them; "" where none is on record."""

    file: str = ""
    image: str = ""
    text: str = ""


@functools.cache
def _tables() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def own_numbers(dataset: str, backbone: str, attack: str) -> dict[int, KnownNumbers]:
    """This project's own numbers of a data set and a model (names of their yaml files) under an attack in its short
    form, by how many images they are of; empty where there are none."""
    wanted = {"dataset": dataset, "backbone": backbone, "attack": attack}
    return {
        n: KnownNumbers("this project's own numbers", 100 * each["clean"] / n, 100 * each["robust"] / n, n, exact=True)
        for each in _tables()["numbers"]
        if wanted.items() <= each.items() and (n := each["images"])
    }


def own_model(backbone: str) -> KnownModel:
    """A model that ships with the project."""
    each = next((each for each in _tables()["models"] if each["backbone"] == backbone), {})
    return KnownModel(each.get("file", ""), each.get("image", ""), each.get("text", ""))
