"""What a verification says of a record: whether it agrees, what differs, and images whose outcome is another one."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from advpt.errors import shown
from advpt.schema import Json

BOUNDARY = 0.05  # logits, up to which another processor or number of threads may turn the outcome of an image
CONTRADICTIONS = ("robust above clean:", "the attack changed nothing:")  # beginnings of warnings about numbers
REASON = 100  # characters of a reason in the last line
Status = Literal["agrees", "near", "differs", "unchecked"]


@dataclass(frozen=True)
class Finding:
    """A value of a record that is not what it should be.

    Args:
        name: dotted name in the record's result, "" where the finding is not about one value.
        recorded, expected: as JSON values. source: what says so, before the expected value.
        text: the whole sentence, in the place of all that.
    """

    name: str = ""
    recorded: Json = None
    expected: Json = None
    source: str = ""
    text: str = ""

    def __str__(self) -> str:
        if self.text:
            return self.text
        return f"{self.name}: the record has {shown(self.recorded, 80)}, {self.source} {shown(self.expected, 80)}"


@dataclass(frozen=True)
class Flip:
    """An image whose outcome is another one than the record's.

    Args:
        image: its id. part: ``clean`` or ``robust``. recorded: whether it is correct in the record; made anew it is
            not, or the reverse.
        margin: made anew, the true class's logit minus the largest other, the worst of several attacks.
    """

    image: str
    part: str
    recorded: bool
    margin: float

    def __str__(self) -> str:
        words = ("wrong", "correct")
        return (
            f"{self.part} outcome of {self.image}: the record has {words[self.recorded]}, made anew it is "
            f"{words[not self.recorded]}, with a margin of {self.margin:+.4f} logits"
        )


@dataclass(frozen=True)
class Verdict:
    """The outcome of the verification of a record.

    Args:
        status: ``near`` where nothing but images near the boundary differs.
        images: whose outcomes were compared, 0 for none. of: images of the record.
        findings: what differs. flips: images that do. notes: what else there is to know; of a record that cannot be
            checked, why.
    """

    path: Path
    status: Status
    images: int = 0
    of: int = 0
    findings: tuple[Finding, ...] = ()
    flips: tuple[Flip, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        match self.status:
            case "agrees":
                part = f"the first {self.images} of {self.of} images" if self.images < self.of else f"{self.of} images"
                return f"agrees    {self.path}: {part}, bit by bit"
            case "near":
                return f"near      {self.path}: agrees but for {near(self)}"
            case "unchecked":
                return f"unchecked {self.path}: {self.notes[0] if self.notes else ''}"
        return f"DIFFERS   {self.path}: {_count(self)}"


def unchecked(path: Path, why: str) -> Verdict:
    """That a record cannot be checked, and why."""
    return Verdict(path, "unchecked", notes=(why,))


def near(verdict: Verdict) -> str:
    """What differs in a record that agrees otherwise, in words."""
    images = len({flip.image for flip in verdict.flips})
    if not images:
        return "the last digits of numbers that follow from images near the boundary"
    return f"{images} image{'s' if images != 1 else ''} near the boundary"


def _count(verdict: Verdict) -> str:
    """How much differs, in words."""
    words = []
    if verdict.flips:
        words.append(f"outcomes of {len({flip.image for flip in verdict.flips})} images")
    if verdict.findings:
        words.append(f"{len(verdict.findings)} other value{'s' if len(verdict.findings) != 1 else ''}")
    return " and ".join(words)


def conclusion(verdicts: Sequence[Verdict]) -> str:
    """The last line of a verification."""
    count = {status: [v for v in verdicts if v.status == status] for status in ("agrees", "near", "differs")}
    missing = [verdict for verdict in verdicts if verdict.status == "unchecked"]
    n = len(count["agrees"])
    differ = len(count["differs"])
    line = (
        f"{n} record{'s agree' if n != 1 else ' agrees'} bit by bit, {len(count['near'])} but for images near the "
        f"boundary, {differ} differ{'s' if differ == 1 else ''}, {len(missing)} cannot be checked"
    )
    reasons = dict.fromkeys(textwrap.shorten(v.notes[0], REASON, placeholder=" ...") for v in missing if v.notes)
    return f"{line} ({'; '.join(reasons)})" if reasons else line
