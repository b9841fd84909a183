"""A request from its words to its report: plan, what is missing, what it will take, execute, write tables and
figures."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from advpt.errors import ConfigError
from advpt.jobs import effort
from advpt.jobs.local import Places, Summary, is_complete, runs
from advpt.jobs.plan import Plan
from advpt.jobs.studies import Exhibits
from advpt.results.report import Report, write

PLAN_HEADS = ("trainer", "what", "data set", "backbone", "shots", "seeds", "done")


def plan_rows(plan: Plan, places: Places) -> list[list[str]]:
    """The plan for people: one row per kind of run, its seeds and how many of them are done."""
    rows: dict[tuple[str, ...], list[tuple[int, bool]]] = defaultdict(list)
    for job in plan.jobs:
        shots = str(job.shots) if job.shots > 0 else "all"
        what = job.purpose + (" (evaluates)" if job.model else "")
        rows[job.trainer, what, job.dataset, job.backbone, shots].append((job.seed, is_complete(job, places)))
    return [
        [*key, ",".join(str(seed) for seed, _ in sorted(found)), f"{sum(done for _, done in found)} of {len(found)}"]
        for key, found in rows.items()
    ]


def estimate(plan: Plan, places: Places, slots: int, rate: float | None = None) -> str:
    """One sentence on time and disk for what is not done. ``rate``: GFLOP a second of the whole machine, None
    measures."""
    done = [job.id for job in plan.jobs if is_complete(job, places)]
    gflop, size = plan.work(done)
    left = len(plan.jobs) - len(done)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if rate is None:
        rate = effort.speed(device)
        rate *= torch.cuda.device_count() if device == "cuda" else slots
    seconds = gflop / rate + left * effort.START / slots
    free = shutil.disk_usage(_existing(places.output)).free
    shared = sum(1 for _ in plan.shared_banks)
    return (
        f"{left} of {len(plan.jobs)} runs to do, {shared} banks shared between runs; very roughly {in_words(seconds)} "
        f"at {rate:,.0f} GFLOP/s ({device}) and {size / 1e9:.1f} GB of disk ({free / 1e9:.0f} GB are free)"
    )


def in_words(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``, ``2.1 days``."""
    for unit, length, limit in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}" if unit != "h" else f"{seconds / length:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def report(exhibits: Exhibits, places: Places, *, title: str, about: str) -> Report:
    """Tables, figures and the page of a study, from whatever records there are."""
    found = runs(exhibits.plan, places)
    folder = places.output / "report"
    return write(exhibits.exhibits, found, folder, title=title, about=about, top=places.output / "runs")


def failures(plan: Plan, places: Places, summary: Summary) -> list[str]:
    """Every run that failed or was left out, why, and where its log is."""
    lines = [
        f"{plan.by_id[i].label}: {why}; log: {places.output / 'jobs' / f'{i}.log'}" for i, why in summary.failed.items()
    ]
    return lines + [f"{plan.by_id[i].label}: left out, {why}" for i, why in summary.blocked.items()]


def slots_here(asked: int) -> tuple[int, int]:
    """Processes at a time and GPUs to hand out: one run per GPU where there are GPUs, else half of the cores, two at
    most."""
    gpus = torch.cuda.device_count()
    if asked < 0:
        raise ConfigError(f"--jobs is {asked}; give a number of runs at a time, or 0 for a choice of ours")
    return asked or gpus or max(1, min(2, os.cpu_count() or 1)), gpus


def weights(texts: Sequence[str]) -> dict[str, str]:
    """``vit_b16=FILE`` words as a mapping.

    Raises:
        ConfigError: a word of another form.
    """
    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise ConfigError(f"--weights {text!r} is not of the form BACKBONE=FILE, for instance vit_b16=ViT-B-16.pt")
        found[name] = path
    return found


__all__ = ["PLAN_HEADS", "estimate", "failures", "in_words", "plan_rows", "report", "slots_here", "weights"]
