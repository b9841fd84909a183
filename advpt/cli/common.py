"""What several verbs share: the root of the data sets, the repository, words as lists, and running a plan."""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from tabulate import tabulate

from advpt.cluster import ENGINES, Engine
from advpt.data import data_root
from advpt.errors import ConfigError, first_words
from advpt.evaluation import run_folder
from advpt.evaluation.saved_run import IMAGE_ENCODER, ZERO_SHOT
from advpt.jobs.backends import Backend, LocalBackend, RayBackend, slots_here
from advpt.jobs.display import display_on, in_words
from advpt.jobs.estimate import Recorded, work
from advpt.jobs.executor import Executor, Summary
from advpt.jobs.places import Places, command, is_complete, missing_data, missing_weights
from advpt.jobs.plan import Pairs, Plan
from advpt.prompts import exchange
from advpt.tuning import linear_probe

if TYPE_CHECKING:
    from advpt.results.report import Report

PLAN_HEADS = ("trainer", "what", "data set", "backbone", "shots", "seeds", "done")
MODELS = (exchange.FOLDER, IMAGE_ENCODER, ZERO_SHOT, linear_probe.FILE)  # what a run leaves one of
SHOWN_RUNS = 3  # of those in a folder
ROOT_HELP = "folder of all data sets (default: $ADVPT_DATA or data)"


def root(given: str) -> Path:
    """The absolute folder of all data sets."""
    return Path(data_root(given)[0]).expanduser().absolute()


def repository() -> Path:
    """The checkout with train.py and the yaml files.

    Raises:
        ConfigError: the library is installed without it.
    """
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (folder / "train.py").is_file() and (folder / "configs" / "trainers").is_dir():
            return folder
    raise ConfigError("this verb starts train.py and reads its yaml files: run it in the root of the repository")


def require_run(folder: Path) -> None:
    """Refuse what is no run's folder.

    Raises:
        ConfigError: it is no folder, or it holds runs and is none.
    """
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise ConfigError(f"{folder} {what}; give the folder of a finished run, for instance output/digits/AdvPT/...")
    if any((folder / name).exists() for name in (run_folder.FILE, run_folder.DONE, *MODELS)):
        return
    runs = (path.parent for path in folder.glob(f"**/{run_folder.FILE}"))
    if below := sorted(map(str, itertools.islice(runs, SHOWN_RUNS))):
        raise ConfigError(f"{folder} is no run but has runs below it, for instance {', '.join(below)}; name one")


def device(text: str) -> torch.device:
    """The device of that name; for "" a GPU where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        made = torch.device(text or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=made)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device {text} cannot be used ({first_words(error)}); give cpu, or cuda") from error
    return made


def words(text: str) -> list[str]:
    """Words between spaces or commas."""
    return text.replace(",", " ").split()


def whole_numbers(name: str, text: str) -> list[int]:
    """Whole numbers between spaces or commas.

    Raises:
        ConfigError: another word; ``name`` is the option's.
    """
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise ConfigError(f"{name} is {text!r}; give whole numbers with commas, for instance 1,2,3") from None


def add_plan_arguments(sub: argparse.ArgumentParser, brief: bool = False) -> None:
    """The options of verbs that plan and run many jobs. ``brief``: the help has few of them."""
    rare: dict[str, Any] = {"help": argparse.SUPPRESS} if brief else {}
    sub.usage = "%(prog)s [options] NAME ..."
    sub.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")
    sub.add_argument("--jobs", type=int, default=0, help="runs at a time (default: one per GPU, else up to two)")
    for option, given, text in (
        ("root", {"default": ""}, ROOT_HELP),
        ("cluster", {"default": "", "metavar": "8xH200"}, "estimate for so many workers at a time"),
        ("cpus-per-worker", {"type": float, "default": 0.0}, "cores of each run on ray (default: we choose)"),
        ("gpus-per-worker", {"type": float, "default": 0.0}, "its GPUs on ray; 0.5: two runs share one"),
        ("engine", {"default": "local", "choices": ENGINES}, "ray: on a cluster, see docs/clusters.md"),
        ("set", {"nargs": 2, "action": "append", "default": [], "metavar": ("KEY", "VALUE")}, "for every run"),
        ("weights", {"action": "append", "default": [], "metavar": "BACKBONE=FILE"}, "instead of OpenAI's by name"),
    ):
        sub.add_argument(f"--{option}", **{"help": text} | given | rare)


def places_and_settings(args: argparse.Namespace, output: Path, banks: Path) -> tuple[Places, Pairs]:
    """Where the files of a plan lie, and the settings of every run, as the options of :func:`add_plan_arguments` say.

    Raises:
        ConfigError: weights of another form than ``vit_b16=FILE``.
    """
    files = {}
    for text in args.weights:
        name, _, path = text.partition("=")
        if not path:
            raise ConfigError(f"--weights {text!r} is not of the form BACKBONE=FILE, for instance vit_b16=ViT-B-16.pt")
        files[name] = path
    places = Places(repository(), output.absolute(), root(args.root), banks.absolute(), files)
    return places, tuple((key, value) for key, value in args.set)


def execute(plan: Plan, places: Places, args: argparse.Namespace) -> Summary:
    """Run what is missing of a plan, as the options of :func:`add_plan_arguments` say."""
    engine = Engine(args.engine, args.cpus_per_worker, args.gpus_per_worker)
    backend: Backend = RayBackend(engine, args.jobs) if engine.name == "ray" else LocalBackend(*slots_here(args.jobs))
    return Executor(plan, places, backend=backend, display=display_on(sys.stderr)).run()


def print_summary(plan: Plan, places: Places, summary: Summary) -> None:
    """How many runs there were, how long they took, and every failure."""
    print(f"{len(summary.done)} runs in {in_words(summary.seconds)}, {len(summary.there)} were done before")
    for id, why in summary.failed.items():
        print(f"FAILED    {plan.by_id[id].label}: {why}; log: {places.file(plan.by_id[id], 'log')}")
    for id, why in summary.blocked.items():
        print(f"FAILED    {plan.by_id[id].label}: left out, {why}")


def without_data(absent: Sequence[str], places: Places, instead: str) -> ConfigError:
    """The error for data sets that are not there; ``instead``: which option asks for others."""
    return ConfigError(
        f"{len(absent)} data sets are not under {places.root} (listed above); prepare them, {instead}, or see it all "
        "small with --demo"
    )


def print_report(made: Report, plan: Plan, places: Places, summary: Summary | None) -> None:
    """What a report holds and where it is; ``summary``: of the runs behind it, None where none was started."""
    for note in made.notes:
        print(f"{note.kind:10}{note.text}")
    if summary is not None:
        print_summary(plan, places, summary)
    print(f"cells: {', '.join(f'{n} {word}' for word, n in sorted(made.words.items())) or 'none'}")
    for title, sentences in made.sentences.items():
        print("\n".join(["", title, *sentences]))
    print(f"report    {made.page}")


def print_plan(plan: Plan, places: Places, args: argparse.Namespace) -> None:
    """The plan as a table of one row per kind of run, and what it takes."""
    kinds: dict[tuple[str, ...], list[tuple[int, bool]]] = defaultdict(list)
    for job in plan.jobs:
        shots, what = str(job.shots) if job.shots > 0 else "all", job.purpose + (" (evaluates)" if job.model else "")
        kinds[job.trainer, what, job.dataset, job.backbone, shots].append((job.seed, is_complete(job, places)))
    rows = []
    for kind, runs in kinds.items():
        seeds, done = ",".join(str(seed) for seed, _ in sorted(runs)), sum(done for _, done in runs)
        rows.append([*kind, seeds, f"{done} of {len(runs)}"])
    print(tabulate(rows, headers=PLAN_HEADS, disable_numparse=True))
    print("\n".join(estimate(plan, places, slots_here(args.jobs)[0], sharing_trainers(), args.cluster)))
    if args.verbose:
        for job in plan.jobs:
            print(f"{job.id}  {' '.join(command(job, plan, places))}")


def estimate(plan: Plan, places: Places, workers: int, sharing: Collection[str], cluster: str = "") -> list[str]:
    """Sentences on what is not done: counts, time where runs of the kind are recorded, and free disk.

    Args:
        workers: runs at a time. sharing: trainers whose test banks are shared. cluster: ``8xH200`` in the place of
            ``workers``, "" for this machine.

    Raises:
        ConfigError: a cluster of another form.
    """
    left = [job for job in plan.jobs if not is_complete(job, places)]
    total = work(left, places.repository, sharing)
    text = (
        f"{len(left)} of {len(plan.jobs)} runs to do: {total.images:,} images to evaluate, {total.passes:,} forward "
        "passes of the image encoder under their attacks"
    )
    text += f" ({', '.join(total.uncounted)} not counted)" if total.uncounted else ""
    folder = next(path for path in (places.output, *places.output.parents) if path.exists())
    sentences = [f"{text}; training comes on top. {shutil.disk_usage(folder).free / 1e9:.0f} GB of disk are free"]
    if cluster:
        match = re.fullmatch(r"([1-9]\d*)x([A-Za-z]\w*)", cluster.strip())
        if match is None:
            raise ConfigError(
                f"--cluster {cluster!r} is not of the form 8xH200: a number of workers, x, and their device"
            )
        workers = int(match[1])
        sentences.append(
            f"{cluster}: times are of {workers} workers like the one that recorded them, {match[2]} or not"
        )
    return [*sentences, Recorded(places.output).sentence(left, workers)]


def print_missing(plan: Plan, places: Places) -> list[str]:
    """Sentences on weights and data sets that are not there; those on data sets are returned."""
    absent = missing_data(plan, places)
    for line in missing_weights(plan, places):
        print(f"weights   {line}")
    for line in absent:
        print(f"missing   {line}")
    return absent


def register_plugins() -> ModuleType:
    """Register the repository's trainers, with their settings, and data sets; its ``train.py``."""
    if str(repository()) not in sys.path:
        sys.path.insert(0, str(repository()))
    train = importlib.import_module("train")
    train.register_plugins()
    return train


def sharing_trainers() -> set[str]:
    """Registered trainers whose test banks serve others too (``shares_test_banks``)."""
    from dassl.engine import TRAINER_REGISTRY

    register_plugins()
    names = TRAINER_REGISTRY.registered_names()
    return {name for name in names if getattr(TRAINER_REGISTRY.get(name), "shares_test_banks", False)}
