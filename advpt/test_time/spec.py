"""The text form of test-time defenses: ``mean``, ``ttc:released``, ``mta/views=32``, ``rescale+rtpt``.

    [DEFENSE+...]NAME[:PROFILE][/OPTION=VALUE...]

What stands before the last ``+`` are defenses of the input (:mod:`advpt.defenses.spec`), which it gets its images
behind; views then come from these images, never from files. A short form expands to every option with its value; the
expansion is what is recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from advpt.defenses import spec as defenses
from advpt.defenses.base import DEFENSES
from advpt.defenses.spec import DefenseSpec
from advpt.errors import ConfigError, DefenseError
from advpt.options import parse_options, write_options
from advpt.test_time.base import TEST_TIME, DefendedModel, TestTimeDefense

_FROM_A_RUN = (
    "it starts from the prompts of a run and needs their statistics, so that no text makes it; evaluate the run with "
    "--trainer {}, --eval-only and --model-dir RUN"
)
WITH_A_RUN = {
    "tapt": _FROM_A_RUN.format("TAPTV, TAPTVLI or TAPTVLJ"),
    "tame": _FROM_A_RUN.format("TAMEV or TAMEVLI"),
}  # defenses that are made by a trainer, and how


@dataclass(frozen=True)
class TestTimeSpec:
    """A test-time defense, its profile and settings, and the chain of input defenses before it. See :func:`parse`."""

    __test__ = False  # not one of pytest's

    name: str
    profile: str
    settings: Any
    input: DefenseSpec | None = None

    def __str__(self) -> str:
        """The shortest text with this meaning."""
        defaults = dataclasses.asdict(TEST_TIME.get(self.name).profiles[self.profile])
        return self._behind(write_options(self.name, self.profile, {
            key: value for key, value in dataclasses.asdict(self.settings).items() if value != defaults[key]
        }))  # fmt: skip

    @property
    def expanded(self) -> str:
        """Every option written out; parsing it gives the same spec back."""
        text = write_options(self.name, self.profile, dataclasses.asdict(self.settings))
        return f"{self.input.expanded}+{text}" if self.input is not None else text

    def _behind(self, text: str) -> str:
        return f"{self.input}+{text}" if self.input is not None else text

    @property
    def kind(self) -> type[TestTimeDefense]:
        """Its class."""
        return TEST_TIME.get(self.name)

    def build(self, model: DefendedModel, seed: int = 0) -> TestTimeDefense:
        """The defense of this model. Raises DefenseError where it cannot have one."""
        return self.kind(model, self.settings, seed)


def parse(text: str) -> TestTimeSpec:
    """A :class:`TestTimeSpec` from its text form; no file is read.

    Raises:
        ConfigError: the text does not follow the grammar; the message says where.
    """
    *stages, last = (part.strip() for part in text.strip().split("+"))
    name = last.split("/")[0].partition(":")[0]
    if name in WITH_A_RUN:
        raise ConfigError(f"test-time defense {text!r}: {WITH_A_RUN[name]}")
    if name in DEFENSES:
        raise ConfigError(
            f"test-time defense {text!r}: {name!r} is a defense of the input, and those stand before the last '+', for "
            f"instance {name}+mean; without a defense at test time it goes into EVAL.DEFENSES"
        )
    kind = TEST_TIME.get(name)
    profiles = {name: dataclasses.asdict(settings) for name, settings in kind.profiles.items()}
    profile, options = parse_options("test-time defense", last, profiles)
    settings = dataclasses.replace(kind.profiles[profile], **options)
    try:
        kind.check(settings)
    except DefenseError as error:
        raise ConfigError(f"test-time defense {text!r}: {error}") from None
    if stages and getattr(settings, "source", None) == "file":
        raise ConfigError(
            f"test-time defense {text!r}: with source=file views of clean images come from their files, past the "
            f"defenses of the input before it; write {last}/source=tensor there"
        )
    return TestTimeSpec(kind.name, profile, settings, defenses.parse("+".join(stages)) if stages else None)


def parse_all(texts: Sequence[str]) -> list[TestTimeSpec]:
    """Each distinct defense once, in order. Raises ConfigError."""
    distinct: list[TestTimeSpec] = []
    for spec in map(parse, texts):
        if str(spec) not in map(str, distinct):
            distinct.append(spec)
    return distinct
