"""``python -m advpt reproduce``."""

from __future__ import annotations

import argparse
from pathlib import Path

from advpt.cli import common
from advpt.errors import ConfigError
from advpt.jobs.builder import Variant
from advpt.jobs.exhibits import EXHIBITS, plan_exhibits
from advpt.jobs.places import runs
from advpt.jobs.setup import DEMO, PAPER
from advpt.results.report import write


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "names",
        nargs="*",
        help="table1 to table5, fig3 to fig7, curves, efficiency, all; peers, tapt, test_time, towers",
    )
    sub.add_argument("--demo", action="store_true", help="all of it small: DemoCLIP and digits, no download")
    sub.add_argument("--only", default="", help="data sets, for instance pets,dtd")
    sub.add_argument("--backbones", default="", help="for instance vit_b16")
    sub.add_argument("--seeds", default="", help="for instance 1,2,3 (the default)")
    sub.add_argument("--as-published", action="store_true", help="peers: each method by its own recipe, not one budget")
    sub.add_argument("--all-statistics", action="store_true", help="tapt: statistics over all training images")
    sub.add_argument("--report-only", action="store_true", help="run nothing; write the report of what is there")
    sub.add_argument("--output", type=Path, default=None, help="default: output/reproduce or output/reproduce-demo")
    sub.add_argument("--banks", type=Path, default=None, help="default: banks below the output folder")
    common.add_plan_arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Tables and figures of the paper: print the plan of the runs they need, run what is missing, write the report.
    Returns 1 where a run failed."""
    if not args.names:
        raise ConfigError(f"name at least one of {', '.join(EXHIBITS)}, or all")
    common.register_plugins()
    seeds = common.whole_numbers("--seeds", args.seeds)
    setup = (DEMO if args.demo else PAPER).narrowed(common.words(args.only), common.words(args.backbones), seeds)
    output = args.output or Path("output", "reproduce-demo" if args.demo else "reproduce")
    places, more = common.places_and_settings(args, output, args.banks or output / "banks")
    variant = Variant(args.as_published, args.all_statistics)
    wanted = plan_exhibits(args.names, setup, places.repository, more, variant)
    common.print_plan(wanted.plan, places, args)
    absent = common.print_missing(wanted.plan, places)
    if args.dry_run:
        return 0
    if absent and not args.report_only:
        raise common.without_data(absent, places, "leave them out with --only")
    summary = None if args.report_only else common.execute(wanted.plan, places, args)
    made = write(
        wanted.exhibits,
        runs(wanted.plan, places),
        places.output / "report",
        title="AdvPT: the paper's tables and figures" + (", as a demo" if args.demo else ""),
        about=setup.captions.get("all", "Our numbers beside the published ones; protocols say what the attacker knew."),
        top=places.output / "runs",
    )
    common.print_report(made, wanted.plan, places, summary)
    return 1 if summary is not None and not summary.ok else 0
