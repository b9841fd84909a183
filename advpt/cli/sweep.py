"""``python -m advpt sweep``."""

from __future__ import annotations

import argparse
from pathlib import Path

from advpt.cli import common
from advpt.cli.report import print_tables
from advpt.errors import ConfigError
from advpt.jobs.exhibits import plan_exhibits
from advpt.jobs.places import is_complete
from advpt.jobs.scripts import shots_of, sweep
from advpt.jobs.setup import PAPER


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "names", nargs="+", metavar="dataset", help="yaml names, for instance pets dtd; see above for plan"
    )
    sub.add_argument("--backbones", default="vit_b16", help="yaml names, for instance vit_b16,vit_l14")
    sub.add_argument("--trainers", default="ZeroshotCLIP,CoOp,CoOp-clean,AdvPT")
    sub.add_argument("--shots", default="all", help="for instance 1,4,16,all")
    sub.add_argument("--seeds", default="1,2,3")
    sub.add_argument("--output", type=Path, default=Path("output", "sweep"))
    sub.add_argument("--banks", type=Path, default=Path("banks"))
    common.add_plan_arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Data sets x backbones x trainers x shots x seeds as one plan of runs that may be started again at any time.
    With ``plan`` before the data sets nothing is run; ``plan`` alone is the whole paper. Returns 1 where a run failed.
    """
    common.register_plugins()
    places, more = common.places_and_settings(args, args.output, args.banks)
    only_plan = args.names[0] == "plan"
    datasets = args.names[1:] if only_plan else args.names
    if not datasets:
        common.print_plan(plan_exhibits(["all"], PAPER, places.repository, more).plan, places, args)
        return 0
    plan = sweep(
        datasets,
        common.words(args.backbones),
        common.words(args.trainers),
        [shots_of(word) for word in common.words(args.shots)],
        common.whole_numbers("--seeds", args.seeds),
        places.repository,
        more,
    )
    common.print_plan(plan, places, args)
    absent = common.print_missing(plan, places)
    if args.dry_run or only_plan:
        return 0
    if absent:
        raise ConfigError(f"{len(absent)} data sets are not under {places.root} (listed above); prepare them first")
    summary = common.execute(plan, places, args)
    if done := [places.folder(job) for job in plan.jobs if is_complete(job, places)]:
        print_tables(done)
    common.print_summary(plan, places, summary)
    return 0 if summary.ok else 1
