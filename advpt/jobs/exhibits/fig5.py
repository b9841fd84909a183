"""Figure 5: fast adversarial training over wall-clock."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.clock import clock_figure
from advpt.results.exhibit import Exhibit


def exhibits(b: Builder) -> list[Exhibit]:
    return clock_figure(b, "fig5", "Figure 5: fast adversarial training and AdvPT over wall-clock", ("FastAT",))
