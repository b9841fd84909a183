"""Accuracy over wall-clock: Figures 4 and 5 of AdvPT's paper, and both in one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from advpt.jobs.builder import Builder, Evaluation
from advpt.jobs.exhibits.common import caption, panel
from advpt.jobs.methods import ADVPT, ENCODER_TRAINERS
from advpt.results.exhibit import Exhibit, Figure, TimeCurve


def fig4(b: Builder) -> list[Exhibit]:
    """PGD adversarial training."""
    return _clock_figure(b, "fig4", "Figure 4: PGD adversarial training and AdvPT over wall-clock", ("AdvTrain",))


def fig5(b: Builder) -> list[Exhibit]:
    """Fast adversarial training."""
    return _clock_figure(b, "fig5", "Figure 5: fast adversarial training and AdvPT over wall-clock", ("FastAT",))


def efficiency(b: Builder) -> list[Exhibit]:
    """Not in the paper: both in one, with TRADES."""
    title, note = "Adversarial training and AdvPT over wall-clock", "Not in the paper, which has no TRADES. "
    return _clock_figure(b, "efficiency", title, ENCODER_TRAINERS, note)


def _runs(b: Builder, trainer: str, dataset: str, backbone: str) -> tuple[str, ...]:
    """Ids of training runs that measure their accuracy along the way."""
    s = b.setup
    settings = [("TRAIN.CURVE_FREQ", str(s.curve_every[trainer])), *s.clock_settings.get(trainer, ())]
    evaluation = Evaluation((f"{s.pgd}:transfer",), subset=s.clock_subset)
    seeds = s.seeds[: s.clock_seeds or None]
    return tuple(b.job(trainer, dataset, backbone, seed, "clock", evaluation, settings) for seed in seeds)


def _clock_figure(b: Builder, name: str, title: str, trainers: Sequence[str], note: str = "") -> list[Exhibit]:
    """AdvPT and other trainers: a panel for clean and one for robust accuracy."""
    s, curves = b.setup, []
    parts: tuple[Literal["clean", "robust"], ...] = ("clean", "robust")
    for dataset, backbone, part in itertools.product(s.timed, s.timed_backbones, parts):
        for trainer in (ADVPT, *trainers):
            runs = _runs(b, trainer, dataset, backbone)
            curves.append(TimeCurve(f"{panel(s, dataset, backbone)}, {part}", trainer, runs, part))
    text = caption(b, "clock", note=note)
    axes = ("wall-clock (s)", "accuracy (%)")
    return [Figure(name, title, text, "lines", *axes, time_curves=tuple(curves), log_x=True)]
