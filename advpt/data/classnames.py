"""The class names that ship with the project, by class folder."""

from __future__ import annotations

from pathlib import Path

from advpt.data import imagenet
from advpt.data.facts import DatasetFacts


def shipped(facts: DatasetFacts) -> dict[str, str]:
    """The name of every class folder of a data set, in the order of its labels; ImageNet's names where the facts name
    no other file."""
    if not facts.classnames:
        return imagenet.shipped_names()
    lines = (Path(__file__).parent / facts.classnames).read_text(encoding="utf-8").splitlines()
    return {folder: name for folder, _, name in (line.partition(" ") for line in lines)}
