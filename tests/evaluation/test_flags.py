"""What is flagged about a robust number."""

from __future__ import annotations

from typing import Any

import torch

from advpt.evaluation.flags import FLAGS, NO_GRADIENT, flags, weaker_than_static
from advpt.evaluation.record import CleanAccuracy, PartAccuracy, RobustAccuracy


def robust(n: int, **fields: Any) -> RobustAccuracy:
    """Correct on ``n`` of ten images."""
    return RobustAccuracy.of(torch.arange(10) < n, **fields)


def part(name: str, accuracy: float, **fields: Any) -> PartAccuracy:
    return PartAccuracy(name=name, attack="pgd", n=10, correct=accuracy / 10, accuracy=accuracy, **fields)


CLEAN = CleanAccuracy.of(torch.arange(10) < 6)


def test_a_sound_number_has_no_flag() -> None:
    parts = (part("static", 40), part("own, ce", 20, gradient=0.9), part("own, margin", 60, left=True))
    assert flags(CLEAN, robust(2, parts=parts), False) == ()
    assert flags(CLEAN, None, False) == ()


def test_each_flag_is_raised_by_what_it_says() -> None:
    masked = (
        part("static", 40),
        part("own, ce", 50),
        part("own, ce from static", 30),
        part("own, margin", 10, left=True),
    )
    assert flags(CLEAN, robust(7), False) == ("robust above clean",)
    assert flags(CLEAN, robust(2, parts=masked), False) == ("adaptive weaker than static",)
    assert flags(CLEAN, robust(2, parts=(part("static", 40), part("own, ce", 20, gradient=1e-7))), False) == (
        "gradient vanishes",
    )
    assert flags(CLEAN, robust(2, untouched=10.0), False) == ("images partly clean",)
    assert flags(CLEAN, None, True) == ("depends on batch",)
    every = robust(7, parts=(part("static", 40), part("own, ce", 50, gradient=0.0)), untouched=1.0)
    assert set(flags(CLEAN, every, True)) == set(FLAGS) - {NO_GRADIENT}
    assert flags(CLEAN, robust(2, parts=(part("Square", 20),)), False) == ("no gradient",)
    assert flags(CLEAN, robust(2, parts=(part("static", 40), part("Square", 20, left=True))), False) == ()


def test_only_own_starts_on_all_images_are_compared_with_static() -> None:
    assert not weaker_than_static(())
    assert not weaker_than_static((part("static", 40), part("own, ce from static", 50)))
    assert not weaker_than_static((part("static", 40), part("own, ce", 50), part("other, ce", 40)))
    assert weaker_than_static((part("static", 40), part("own, ce", 50), part("other, ce", 41)))
