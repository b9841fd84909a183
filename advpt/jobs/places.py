"""Where the files of a plan lie on this machine, what its jobs' processes are called with, which jobs are done, and
which data sets and weights they lack."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from advpt.attacks.spec import FILES
from advpt.backbones import clip, democlip, find
from advpt.data import catalog, demo_sets, zero_shot
from advpt.errors import ConfigError, RecordError
from advpt.evaluation import run_folder
from advpt.files import read_json
from advpt.jobs.plan import Job, Plan
from advpt.results.index import Run, State
from advpt.settings import recipe

FOLDER = "jobs"  # below the output folder: state, log, lock and progress of every job


@dataclass(frozen=True)
class Places:
    """The repository, the folders of results, data sets and banks, and weight files by backbone."""

    repository: Path
    output: Path
    root: Path
    banks: Path
    weights: Mapping[str, str] = field(default_factory=dict)

    def folder(self, job: Job) -> Path:
        """The folder of a job's results. For data of one's own it has their name; where earlier runs lie, they go
        on."""
        named = self.output / job.folder
        if job.place or not is_own(job) or named.is_dir():
            return named
        name = catalog.title_of("ImageFolder", self.root, dict(job.settings).get("DATASET.TITLE", ""))
        first, _, *rest = job.folder.parts
        return named if name == "ImageFolder" else self.output.joinpath(first, name, *rest)

    def run_folders(self, job: Job) -> list[Path]:
        """The folder of each of its runs."""
        return [self.folder(job) / f"seed{seed}" for seed in job.seeds] or [self.folder(job)]

    def file(self, job: Job, ending: str) -> Path:
        """A file about a job: ``json`` for its state, ``log`` for its output, ``lock``, ``progress``."""
        return self.output / FOLDER / f"{job.id}.{ending}"


def is_own(job: Job) -> bool:
    """Whether a job is about data of one's own."""
    return catalog.canonical(job.dataset) == "ImageFolder"


def may_change(job: Job) -> bool:
    """Whether what a job does may change behind its id: data of one's own, images made elsewhere, or a folder whose
    name leaves settings out. Such a job is started even if it is done, as ``train.py`` itself compares."""
    return bool(job.place) or is_own(job) or FILES in dict(job.settings).get("EVAL.ATTACKS", "")


def command(job: Job, plan: Plan, places: Places) -> list[str]:
    """The words of a job's process."""
    words = [sys.executable, str(places.repository / "train.py")]
    words += ["--trainer", job.trainer, "--config-file", str(places.repository / job.config)]
    words += ["--dataset-config-file", str(places.repository / job.dataset_config), "--root", str(places.root)]
    words += ["--seeds", ",".join(map(str, job.seeds))] if job.seeds else ["--seed", str(job.seed)]
    words += ["--output-dir", str(places.folder(job)), "--skip-done"]
    if job.model:
        words += ["--eval-only", "--model-dir", str(places.folder(plan.by_id[job.model]))]
    words += ["VERBOSE", "False", "BANK.DIR", str(places.banks), "DATASET.NUM_SHOTS", str(job.shots)]
    if weights := places.weights.get(job.backbone):
        words += ["MODEL.WEIGHTS", weights]
    for key, other in job.runs:
        id, _, file = other.partition("/")
        words += [key, str(places.folder(plan.by_id[id]) / file)]
    return words + [word for pair in job.settings for word in pair]


def problems(job: Job, places: Places) -> list[str]:
    """Why a job is not complete, one sentence each; empty for one whose records are all there and sound."""
    if not job.is_evaluated:
        return [f"{f} has no checkpoint" for f in places.run_folders(job) if not any(f.glob("*/model*.pth.tar*"))]
    return [problem for folder in places.run_folders(job) for problem in run_folder.problems(folder)]


def is_complete(job: Job, places: Places) -> bool:
    """Whether a job's records are all there and sound."""
    return job.is_evaluated and not problems(job, places)


def state_of(job: Job, places: Places) -> State:
    """What a report says of a job: done when it once finished (its records may have gone since), failed, or not run."""
    if (places.folder(job) / run_folder.DONE).is_file():
        return "done"
    try:
        state = read_json(places.file(job, "json"), RecordError).get("state")
    except (RecordError, AttributeError):
        return "not run"
    return "failed" if state == "failed" else "not run"


def runs(plan: Plan, places: Places) -> dict[str, Run]:
    """The jobs as a report sees them."""
    return {
        job.id: Run(job.id, places.folder(job), job.seed, state_of(job, places), job.label, places.file(job, "log"))
        for job in plan.jobs
    }


def missing_data(plan: Plan, places: Places) -> list[str]:
    """Sentences on the data sets of unfinished jobs whose files are not under the data root."""
    names = dict.fromkeys(
        (job.dataset, dict(job.settings).get("DATASET.PROTOCOL", zero_shot.COOP))
        for job in plan.jobs
        if not is_complete(job, places)
    )
    return list(filter(None, (missing_files(name, places.root, protocol) for name, protocol in names)))


def missing_files(name: str, root: Path, protocol: str = zero_shot.COOP) -> str:
    """A sentence on the files of a data set that are not there, with the command that brings them; else "".

    Args:
        name: of its yaml. protocol: as ``DATASET.PROTOCOL``, which says what is needed.
    """
    if name == "digits" or name in demo_sets.BY_ALIAS:  # made where they are needed
        return ""
    try:
        facts = catalog.get(name)
    except ConfigError:
        return ""  # a data set of another repository; the run itself will say
    if catalog.canonical(name) == "ImageFolder":
        own = catalog.own_folder(root)
        paths, advice = [own / part for part in ("train", "test")], "expected folders with a folder of images per class"
    else:
        folder = root / facts.folder
        paths = [folder / facts.image_dir if facts.image_dir else folder]
        rule = zero_shot.facts_of(name, protocol)
        needs_split = facts.split if rule is None or rule.lists in ("split", "setid") else None
        paths += [folder / needs_split.filename] if needs_split else []
        advice = f"run python -m advpt prepare {facts.config} --root {root}"
        if rule is not None and rule.file:
            if all(path.exists() for path in paths):
                advice = "run " + zero_shot.bring(facts, rule, folder)
            paths.append(folder / rule.file)
    absent = ", ".join(str(path) for path in paths if not path.exists())
    return f"{facts.name}: {absent}: {advice}" if absent else ""


def missing_weights(plan: Plan, places: Places) -> list[str]:
    """Sentences on the weights of unfinished jobs whose file is not there yet."""
    jobs = {job.backbone: job for job in plan.jobs if not is_complete(job, places)}
    names = {key: recipe(places.repository / job.config, job.settings) for key, job in jobs.items()}
    sentences = (
        _missing_file(key, values["MODEL.BACKBONE.NAME"], places.weights.get(key)) for key, values in names.items()
    )
    return list(filter(None, sentences))


def _missing_file(backbone: str, name: str, given: str | None) -> str:
    if given:
        return "" if Path(given).expanduser().is_file() else f"{backbone}: there is no file {given}"
    return missing_name(name)


def missing_name(name: str) -> str:
    """A sentence where the weights of a model are not there yet, else "". Opens no connection."""
    if name in democlip.FILES and not democlip.FILES[name].is_file():
        return f"{name}: {democlip.FILES[name]} ships with the project; install it again"
    if name in clip.OFFICIAL:
        url, sha = clip.official_file(name)
        file = clip.cache_folder() / url.rsplit("/", 1)[-1]
        if not file.is_file():
            return f"{name}: {file} is fetched from {url} when it is first needed (SHA-256 {sha})"
    return find.missing(name)
