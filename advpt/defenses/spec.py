"""The text form of defenses: ``rescale``, ``super:advpt``, ``diffpure:sde/t=75``, chained with ``+``.

    STAGE[+STAGE...]      STAGE = NAME[:PROFILE][/OPTION=VALUE...]

A short form expands to every option with its value; the expansion is what is printed and recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from advpt.defenses.base import DEFENSES, Defense
from advpt.defenses.chain import Chain
from advpt.errors import ConfigError, DefenseError
from advpt.options import Option, parse_options, write_options

EXAMPLES = "rescale, super:mustafa, super:advpt/sigma=0.05+rescale, diffpure:ddpm/t=75"


@dataclass(frozen=True)
class Stage:
    """One defense: name, profile, and every option with its value (in the profile's order)."""

    name: str
    profile: str
    options: tuple[tuple[str, Option], ...]

    def __str__(self) -> str:
        """The shortest text with this meaning: only options that differ from the profile's."""
        defaults = DEFENSES.get(self.name).profiles[self.profile]
        return write_options(self.name, self.profile, {k: v for k, v in self.options if v != defaults[k]})

    @property
    def expanded(self) -> str:
        """Every option written out; parsing it gives the same stage back."""
        return write_options(self.name, self.profile, dict(self.options))

    def require(self) -> None:
        """Check that files and packages are there. Raises WeightsError or DefenseError."""
        DEFENSES.get(self.name).require(dict(self.options))

    def build(self) -> Defense:
        """The defense, with its weights read."""
        return DEFENSES.get(self.name)(**dict(self.options))


@dataclass(frozen=True)
class DefenseSpec:
    """A chain of defenses, applied from left to right. See :func:`parse`."""

    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        return "+".join(map(str, self.stages))

    @property
    def expanded(self) -> str:
        return "+".join(stage.expanded for stage in self.stages)

    @property
    def draws_noise(self) -> bool:
        return any(DEFENSES.get(stage.name).draws_noise for stage in self.stages)

    @property
    def costly(self) -> bool:
        return any(DEFENSES.get(stage.name).costly for stage in self.stages)

    def require(self) -> None:
        """Check before a long run that all files and packages are there. Raises WeightsError or DefenseError."""
        for stage in self.stages:
            stage.require()

    def build(self, device: torch.device | str = "cpu") -> Chain:
        """The chain with its weights on ``device``."""
        return Chain(str(self), tuple(stage.build().to(torch.device(device)) for stage in self.stages))


def parse(text: str) -> DefenseSpec:
    """A :class:`DefenseSpec` from its text form; no file is read.

    Raises:
        ConfigError: the text does not follow the grammar; the message says where and gives examples.
    """
    parts = [part.strip() for part in text.strip().split("+")]
    if not all(parts):
        raise ConfigError(f"defense {text!r} is not of the form NAME[:PROFILE][/OPTION=VALUE][+...]; try {EXAMPLES}")
    return DefenseSpec(tuple(_stage(part) for part in parts))


def parse_all(texts: Sequence[str]) -> list[DefenseSpec]:
    """Each distinct chain once, in order. Raises ConfigError."""
    return list(dict.fromkeys(parse(text) for text in texts))


def _stage(text: str) -> Stage:
    name = text.split("/")[0].partition(":")[0]
    kind = DEFENSES.get(name)
    profile, options = parse_options("defense", text, kind.profiles)
    try:
        kind.check(options)
    except DefenseError as error:
        raise ConfigError(f"defense {text!r}: {error}") from None
    return Stage(name, profile, tuple(options.items()))
