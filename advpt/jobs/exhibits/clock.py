"""Figures over wall-clock."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import caption, panel
from advpt.jobs.methods import ADVPT
from advpt.results.exhibit import Exhibit, Figure, TimeCurve


def clock_figure(b: Builder, name: str, title: str, trainers: Sequence[str], note: str = "") -> list[Exhibit]:
    """AdvPT and other trainers over wall-clock: a panel for clean and one for robust accuracy."""
    s, curves = b.setup, []
    evaluation = Evaluation((f"{s.pgd}:transfer",), subset=s.clock_subset)
    seeds = s.seeds[: s.clock_seeds or None]
    parts: tuple[Literal["clean", "robust"], ...] = ("clean", "robust")
    for dataset, backbone, part in itertools.product(s.timed, s.timed_backbones, parts):
        for trainer in (ADVPT, *trainers):
            settings = [("TRAIN.CURVE_FREQ", str(s.curve_every[trainer])), *s.clock_settings.get(trainer, ())]
            about = (trainer, dataset, backbone)
            runs = tuple(b.job(*about, seed, "clock", evaluation, settings) for seed in seeds)
            curves.append(TimeCurve(f"{panel(s, dataset, backbone)}, {part}", trainer, runs, part))
    text = caption(b, "clock", note=note)
    axes = ("wall-clock (s)", "accuracy (%)")
    return [Figure(name, title, text, "lines", *axes, time_curves=tuple(curves), log_x=True)]
