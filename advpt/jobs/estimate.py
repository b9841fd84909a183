"""What a plan takes: counts of runs, images and forward passes, and time from the seconds of runs that are recorded."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advpt.attacks.base import ATTACKS
from advpt.data import catalog, demo_sets
from advpt.errors import ConfigError, RecordError
from advpt.evaluation.protocols import threats
from advpt.files import read_object
from advpt.jobs.display import in_words
from advpt.jobs.plan import Job
from advpt.settings import recipe


class Recorded:
    """Seconds of finished runs, as an executor left them in ``<output>/jobs``: they say how long others will take."""

    def __init__(self, output: Path) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}
        for path in sorted((output / "jobs").glob("*.json")):
            with contextlib.suppress(RecordError, KeyError, TypeError, ValueError):  # another version's, or torn
                about = read_object(path, RecordError)
                if about["state"] == "done":
                    kind = (about["job"]["trainer"], about["job"]["dataset"], about.get("backbone", ""))
                    self.add(kind, Path(about["folder"]), float(about["seconds"]))

    def add(self, kind: tuple[str, str, str], folder: Path, seconds: float) -> None:
        """A run took so long. ``kind``: its trainer, data set and backbone; ``folder``: below the output folder."""
        self._seconds.setdefault(kind, []).append(seconds)
        self._seconds.setdefault((str(folder.parent),), []).append(seconds)

    def seconds(self, job: Job) -> float | None:
        """The median of runs that differ in the seed alone, else of those of a kind; None where none is recorded."""
        for kind in ((str(job.folder.parent),), (job.trainer, job.dataset, job.backbone)):
            if kind in self._seconds:
                return statistics.median(self._seconds[kind])
        return None

    def seconds_left(self, pending: Iterable[Job], running: Mapping[Job, float]) -> float | None:
        """Seconds on one worker, ``running`` jobs having had theirs; None where a kind is not recorded."""
        seconds = {job: self.seconds(job) for job in (*pending, *running)}
        left = [max(0.0, value - running.get(job, 0.0)) for job, value in seconds.items() if value is not None]
        return sum(left) if len(left) == len(seconds) else None

    def sentence(self, jobs: Sequence[Job], workers: int) -> str:
        """How long the jobs take on so many workers like the one that recorded the seconds."""
        seconds = [value for value in map(self.seconds, jobs) if value is not None]
        if not seconds:
            return "time: nothing is recorded yet; after the first run of a kind the others are estimated from it"
        time, rest = in_words(max(*seconds, sum(seconds) / workers)), len(jobs) - len(seconds)
        text = f"time: about {time} for {len(seconds)} runs, {workers} at a time"
        return text + (f"; nothing is recorded of the kinds of {rest} more" if rest else "")


@dataclass(frozen=True)
class Work:
    """Images that are evaluated and forward passes of the image encoder under their attacks, banks that runs share
    counted once. ``uncounted``: attacks whose passes depend on the images or go through another network."""

    images: int
    passes: int
    uncounted: tuple[str, ...]


def work(jobs: Iterable[Job], repository: Path, sharing: Collection[str]) -> Work:
    """The work of jobs. ``sharing``: trainers with test banks for others, but under attacks that know the prompt."""
    images: dict[tuple[str, ...], int] = {}
    passes: dict[tuple[str, ...], int] = {}
    uncounted: dict[str, None] = {}
    for job in jobs:
        values = recipe(repository / job.config, job.settings)
        subset, whole = int(values["EVAL.SUBSET"]), split_sizes(job.dataset)[2]
        n = min(subset, whole) if subset and whole else whole or subset
        rows = 1 + len(values["EVAL.DEFENSES"])
        tower = dict(job.runs).get("MODEL.IMAGE_WEIGHTS", "")
        bank = (job.dataset, job.backbone, tower, str(n), str(values["EVAL.DEFENSES"]))
        clean = bank if job.trainer in sharing else (*bank, job.id)
        images[clean], passes[clean] = n, rows * n
        if values["EVAL.TEST_TIME"]:
            uncounted["passes of and through defenses at test time"] = None
        some = int(values["EVAL.ADAPTIVE_SUBSET"]) or n
        for threat in threats(values["EVAL.ATTACKS"], values["EVAL.PROTOCOLS"]):
            attack, faced = threat.attack, min(n, some) if threat.protocol in ("pseudo", "adaptive") else n
            if not attack.path and (not attack.steps or ATTACKS.get(attack.name).source_model == "surrogate"):
                uncounted[str(attack)] = None
            else:
                attacked = (*bank, job.id) if threat.protocol == "adaptive" else clean
                passes[*attacked, str(attack), threat.protocol] = faced * (attack.steps + rows)
    return Work(sum(images.values()), sum(passes.values()), tuple(uncounted))


def split_sizes(dataset: str) -> tuple[int, int, int]:
    """Images in train, val and test; 0 where only the data can tell."""
    try:
        return (demo_sets.BY_ALIAS.get(dataset) or catalog.get(dataset)).counts
    except ConfigError:
        return (0, 0, 0)
