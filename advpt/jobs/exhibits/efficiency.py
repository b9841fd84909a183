"""Not in the paper: Figures 4 and 5 in one, with TRADES."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.clock import clock_figure
from advpt.jobs.methods import ENCODER_TRAINERS
from advpt.results.exhibit import Exhibit


def exhibits(b: Builder) -> list[Exhibit]:
    title, note = "Adversarial training and AdvPT over wall-clock", "Not in the paper, which has no TRADES. "
    return clock_figure(b, "efficiency", title, ENCODER_TRAINERS, note)
