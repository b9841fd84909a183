"""Figure 4: PGD adversarial training over wall-clock."""

from __future__ import annotations

from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.clock import clock_figure
from advpt.results.exhibit import Exhibit


def exhibits(b: Builder) -> list[Exhibit]:
    return clock_figure(b, "fig4", "Figure 4: PGD adversarial training and AdvPT over wall-clock", ("AdvTrain",))
