"""Models of other code than OpenAI's and open_clip's: a new family is one file with a decorator."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch

from advpt.backbones.backbone import Backbone
from advpt.backbones.card import Card
from advpt.registry import Registry


class Family(abc.ABC):
    """Models that are called ``NAME:REST`` in ``MODEL.BACKBONE.NAME``; ``name`` is the part before the colon."""

    name: ClassVar[str]

    @abc.abstractmethod
    def card(self, rest: str) -> Card:
        """What a model is, without its weights."""

    @abc.abstractmethod
    def load(self, rest: str, device: torch.device | str) -> Backbone:
        """The model. Its module has ``visual``, ``logit_scale`` and OpenAI's parts of a text tower, or ``text`` with
        those; where its card says that images have tokens, its ``visual`` is a vision transformer of OpenAI's parts."""


FAMILIES: Registry[Family] = Registry("family of models")


def family_of(name: str) -> tuple[Family, str] | None:
    """The family of a model's name, and the rest of the name; None where there is none."""
    kind, colon, rest = name.partition(":")
    return (FAMILIES.get(kind)(), rest) if colon and kind in FAMILIES else None
