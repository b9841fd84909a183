"""``python -m advpt run``: what ``scripts/advpt/*.sh`` call."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from advpt.backbones import names
from advpt.cli import common
from advpt.cli.report import print_tables
from advpt.errors import ConfigError
from advpt.evaluation import record as records
from advpt.jobs.backends import LocalBackend, slots_here
from advpt.jobs.display import display_on
from advpt.jobs.estimate import Recorded
from advpt.jobs.executor import Executor
from advpt.jobs.places import Places
from advpt.jobs.scripts import SCRIPTS, Request, Script, result_lines
from advpt.results.report import PAGE


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.usage = "%(prog)s [options] PLAN [WORD ...]"
    sub.add_argument("--root", default="", help=common.ROOT_HELP)
    sub.add_argument("--output", type=Path, default=Path("output"), help="folder of all results")
    sub.add_argument("--seeds", default="1 2 3")
    sub.add_argument("--shots", default="all", help="numbers of images per class, or all")
    sub.add_argument("--trainers", default="AdvPT", help="of searches several")
    sub.add_argument("--grid", default="", help="what a search goes through")
    sub.add_argument("--attack", default="apgd-ce-t@8", help="the demo's AutoAttack")
    sub.add_argument("--weights", default="", help="a file instead of OpenAI's by name")
    sub.add_argument("--name", default="", help="of the data set's folder in the output")
    sub.add_argument("--together", action="store_true", help="tune all seeds in one process and one batch")
    sub.add_argument("--settings", default="", help="KEY VALUE pairs of all runs, of plans that take more words")
    sub.add_argument("--jobs", type=int, default=0, help="runs at a time (default: one per GPU, else up to two)")
    sub.add_argument("plan", choices=tuple(SCRIPTS))
    sub.add_argument("words", nargs=argparse.REMAINDER, help="data set, backbone, KEY VALUE pairs; or more data sets")


def run(args: argparse.Namespace) -> int:
    """The runs of a script of scripts/advpt: those that are done are skipped, broken ones continue. Options come before
    the plan's name. Returns 1 where a run failed."""
    script, places = script_of(args)
    for note in script.notes:
        print(note, file=sys.stderr)
    workers, gpus = slots_here(args.jobs)
    if script.side_by_side and not args.jobs:
        workers = min(script.side_by_side, os.cpu_count() or 1)
    jobs, time = script.plan.jobs, Recorded(places.output).sentence(script.plan.jobs, workers)
    print(f"{len(jobs)} runs, {workers} at a time; {time}", file=sys.stderr)
    backend, display = LocalBackend(workers, gpus), display_on(sys.stderr)
    if not Executor(script.plan, places, backend=backend, keep_going=False, display=display).run().ok:
        return 1
    for heading, folder in script.tables:
        print(f"\n{heading}" if heading else "")
        if any((places.output / folder).glob(f"**/{records.FOLDER}/*.json")):
            print_tables([places.output / folder], page=places.output / folder / PAGE if script.page else None)
    for line in result_lines(script, places.output):
        print(line)
    return 0


def script_of(args: argparse.Namespace) -> tuple[Script, Places]:
    """What the words of a command line ask for.

    Raises:
        ConfigError: too few words, or settings that are no pairs.
    """
    make, needed = SCRIPTS[args.plan]
    if len(args.words) < needed:
        raise ConfigError(f"{args.plan} needs {needed} words (data set, backbone, ...); got {' '.join(args.words)!r}")
    words = args.words if args.plan == "cross_dataset" else args.words[:needed]
    if needed and names.parse(words[1]) is not None:
        raise ConfigError(
            f"{words[1]} is the name of a model; expected the short name of a file in configs/backbones. Write that "
            f"file (docs/backbones.md), or take the recipe of another one: {args.plan} {words[0]} laion_b16 "
            f"MODEL.BACKBONE.NAME {words[1]}"
        )
    pairs = [*args.settings.split(), *args.words[len(words) :]]
    if len(pairs) % 2:
        raise ConfigError(f"settings are KEY VALUE pairs; one of these words is alone: {' '.join(pairs)}")
    request = Request(
        repository=common.repository(),
        root=common.root(args.root),
        output=args.output,
        words=tuple(words),
        trainers=tuple(common.words(args.trainers)),
        seeds=tuple(common.whole_numbers("SEEDS", args.seeds)),
        shots=tuple(common.words(args.shots)),
        grid=tuple(args.grid.split()),
        name=args.name,
        together=args.together,
        settings=tuple(zip(pairs[::2], pairs[1::2])),
        attack=args.attack,
    )
    weights = {words[1]: args.weights} if args.weights else {}
    banks = request.repository / "banks"
    return make(request), Places(request.repository, args.output.absolute(), request.root, banks, weights)
