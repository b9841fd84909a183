"""Accuracy over wall-clock, of Figures 4, 5 and both in one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.methods import ADVPT
from advpt.results.exhibit import Exhibit, Figure, TimeCurve


def runs(b: Builder, trainer: str, dataset: str, backbone: str) -> tuple[str, ...]:
    """Ids of training runs that measure their accuracy along the way."""
    s = b.setup
    settings = [("TRAIN.CURVE_FREQ", str(s.curve_every[trainer])), *s.clock_settings.get(trainer, ())]
    evaluation = Evaluation((f"{s.pgd}:transfer",), subset=s.clock_subset)
    seeds = s.seeds[: s.clock_seeds or None]
    return tuple(b.job(trainer, dataset, backbone, seed, "clock", evaluation, settings) for seed in seeds)


def clock_figure(b: Builder, name: str, title: str, trainers: Sequence[str], note: str = "") -> list[Exhibit]:
    """AdvPT and other trainers over wall-clock: a panel for clean and one for robust accuracy."""
    s, time_curves = b.setup, []
    parts: tuple[Literal["clean", "robust"], ...] = ("clean", "robust")
    for dataset, backbone, part in itertools.product(s.timed, s.timed_backbones, parts):
        panel = f"{s.column(dataset)}, {s.column(backbone)}, {part}"
        for trainer in (ADVPT, *trainers):
            time_curves.append(TimeCurve(panel, trainer, runs(b, trainer, dataset, backbone), part))
    caption = (
        "Seconds of training, AdvPT's with building its bank, without measuring; robust accuracy is under "
        f"{s.pgd} made anew on the encoder as it is (AdvPT's encoder never changes). One machine for all is what makes "
        f"the times comparable. {note}{s.caption()}"
    )
    axes = ("wall-clock (s)", "accuracy (%)")
    return [Figure(name, title, caption, "lines", *axes, time_curves=tuple(time_curves), log_x=True)]
