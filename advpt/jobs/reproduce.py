"""A plan in words, before it runs and after: what it has, what it takes, what failed; and its report."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from advpt.errors import ConfigError
from advpt.jobs.estimate import Recorded, time_sentence, work
from advpt.jobs.executor import Summary
from advpt.jobs.exhibits import Exhibits
from advpt.jobs.places import Places, is_complete, runs
from advpt.jobs.plan import Plan
from advpt.results.report import Report, write

PLAN_HEADS = ("trainer", "what", "data set", "backbone", "shots", "seeds", "done")


def plan_rows(plan: Plan, places: Places) -> list[list[str]]:
    """The plan as a table: one row per kind of run, its seeds and how many of them are done."""
    rows: dict[tuple[str, ...], list[tuple[int, bool]]] = defaultdict(list)
    for job in plan.jobs:
        shots = str(job.shots) if job.shots > 0 else "all"
        what = job.purpose + (" (evaluates)" if job.model else "")
        rows[job.trainer, what, job.dataset, job.backbone, shots].append((job.seed, is_complete(job, places)))
    return [
        [*key, ",".join(str(seed) for seed, _ in sorted(jobs)), f"{sum(done for _, done in jobs)} of {len(jobs)}"]
        for key, jobs in rows.items()
    ]


def estimate(plan: Plan, places: Places, workers: int, sharing: Collection[str], cluster: str = "") -> list[str]:
    """Sentences on what is not done: counts, time where runs of the kind are recorded, and free disk.

    Args:
        workers: runs at a time. sharing: trainers whose test banks are shared. cluster: ``8xH200`` in the place of
            ``workers``, "" for this machine.
    """
    left = [job for job in plan.jobs if not is_complete(job, places)]
    total = work(left, places.repository, sharing)
    text = (
        f"{len(left)} of {len(plan.jobs)} runs to do: {total.images:,} images to evaluate, {total.passes:,} forward "
        "passes of the image encoder under their attacks"
    )
    text += f" ({', '.join(total.uncounted)} not counted)" if total.uncounted else ""
    free = shutil.disk_usage(_existing(places.output)).free
    sentences = [f"{text}; training comes on top. {free / 1e9:.0f} GB of disk are free"]
    if cluster:
        workers, device = parse_cluster(cluster)
        sentences.append(f"{cluster}: times are of {workers} workers like the one that recorded them, {device} or not")
    return [*sentences, time_sentence(left, Recorded(places.output), workers)]


def parse_cluster(text: str) -> tuple[int, str]:
    """``8xH200`` as workers and the name of a device.

    Raises:
        ConfigError: another form.
    """
    match = re.fullmatch(r"([1-9]\d*)x([A-Za-z]\w*)", text.strip())
    if match is None:
        raise ConfigError(f"--cluster {text!r} is not of the form 8xH200: a number of workers, x, and their device")
    return int(match[1]), match[2]


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def report(exhibits: Exhibits, places: Places, *, title: str, about: str) -> Report:
    """Tables, figures and the page, from whatever records there are."""
    folder, top = places.output / "report", places.output / "runs"
    return write(exhibits.exhibits, runs(exhibits.plan, places), folder, title=title, about=about, top=top)


def failures(plan: Plan, places: Places, summary: Summary) -> list[str]:
    """Every run that failed or was left out, why, and where its log is."""
    label = {id: job.label for id, job in plan.by_id.items()}
    failed = [f"{label[i]}: {why}; log: {places.output / 'jobs' / f'{i}.log'}" for i, why in summary.failed.items()]
    return failed + [f"{label[i]}: left out, {why}" for i, why in summary.blocked.items()]


def weights(texts: Sequence[str]) -> dict[str, str]:
    """``vit_b16=FILE`` words as a mapping.

    Raises:
        ConfigError: a word of another form.
    """
    files = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise ConfigError(f"--weights {text!r} is not of the form BACKBONE=FILE, for instance vit_b16=ViT-B-16.pt")
        files[name] = path
    return files
