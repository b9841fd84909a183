"""``python -m advpt benchmark``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from advpt.cli import common
from advpt.errors import ConfigError, unknown_name
from advpt.jobs.exhibits.benchmark import plan_benchmark
from advpt.jobs.places import runs
from advpt.jobs.recipes import Recipes
from advpt.jobs.setup import DEMO, PAPER, ReproductionSetup
from advpt.jobs.setup.benchmark import Choice
from advpt.results.report import write
from advpt.settings import config_names

TITLE = "AdvPT: which published gains survive an attacker who knows the method"
ABOUT = "How many test images get their true class: as they are, and under attackers who know less or more."
GRID = ("prompts", "towers", "inputs", "defenses")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--demo", action="store_true", help="all of it small: DemoCLIP and digits, no download")
    for option, text in (
        ("sets", "data sets: pets,dtd"),
        ("backbones", "vit_b16, fare2_l14, ...: python -m advpt backbones"),
        ("prompts", "CoOp,AdvPT; all, as for the next three: the default"),
        ("towers", "TeCoA,FARE: methods that tune one"),
        ("inputs", "noise,low-pass: python -m advpt defenses"),
        ("defenses", "ttc,mean/views=16: at test time; none: none of them"),
        ("budgets", "of attacks, in 1/255: 1,4,8"),
        ("seeds", "of what is tuned: 1,2,3"),
    ):
        sub.add_argument(f"--{option}", default="", metavar="N", help=text)
    sub.add_argument("--subset", type=int, metavar="N", help="images; --adaptive-subset: of these, for adaptive")
    sub.add_argument("--model", action="append", default=[], metavar="M", help="my.module:make, on --folder DIR or --sets")
    sub.add_argument("--output", type=Path, metavar="DIR", help="default: output/benchmark, or output/benchmark-demo")
    sub.add_argument("--adaptive-subset", type=int, help=argparse.SUPPRESS)
    sub.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    sub.add_argument("--report-only", action="store_true", help=argparse.SUPPRESS)
    sub.add_argument("--banks", type=Path, help=argparse.SUPPRESS)
    common.add_plan_arguments(sub, brief=True)
    sub.usage = "%(prog)s [--demo] [options]"
    sub.epilog = (
        "further: --report-only, --banks, --root, --engine ray, --weights, --set KEY VALUE and others (docs/benchmark.md)"
    )


def setup_of(args: argparse.Namespace) -> ReproductionSetup:
    """The set-up with the part of the grid that is asked for.

    Raises:
        ConfigError: a name or a number that cannot be.
    """
    whole = DEMO if args.demo else PAPER
    recipes, names = Recipes(common.repository()), {each: common.words(getattr(args, each)) for each in GRID}
    sets, backbones = common.words(args.sets), common.words(args.backbones)
    known = config_names(recipes.repository / "configs" / "trainers" / "ZeroshotCLIP") + ["democlip_s"]
    for name in backbones:
        if name not in known:
            raise ConfigError(f"--backbones: {unknown_name('backbone', name, known)}")
    for name in sets:
        recipes.dataset(name)
    asked = Choice(
        sets=sets,
        backbones=backbones,
        **names,
        budgets=common.words(args.budgets),
        subset=args.subset,
        some=args.adaptive_subset,
    )
    seeds = tuple(common.whole_numbers("--seeds", args.seeds)) or whole.seeds
    chosen = whole.benchmark.chosen(asked, whole.towers.training_attacks)
    return dataclasses.replace(whole, benchmark=chosen, seeds=seeds)


def run(args: argparse.Namespace) -> int:
    """A grid of towers, prompts and defenses: whose gains survive attackers who know the method. Name --prompts,
    --towers, --inputs or --defenses, and it is of those alone. Returns 1 where a run failed."""
    common.register_plugins()
    setup = setup_of(args)
    output = args.output or Path("output", "benchmark-demo" if args.demo else "benchmark")
    places, more = common.places_and_settings(args, output, args.banks or output / "banks")
    wanted = plan_benchmark(setup, places.repository, more)
    common.print_plan(wanted.plan, places, args)
    for line in wanted.left_out:
        print(f"left out  {line}")
    absent = common.print_missing(wanted.plan, places)
    if args.dry_run:
        return 0
    if absent and not args.report_only:
        raise ConfigError(
            f"{len(absent)} data sets are not under {places.root} (listed above); prepare them, name others with "
            "--sets, or see it all small with --demo"
        )
    summary = None if args.report_only else common.execute(wanted.plan, places, args)
    made = write(
        wanted.exhibits,
        runs(wanted.plan, places),
        places.output / "report",
        title=TITLE + (", as a demo" if args.demo else ""),
        about=ABOUT,
        top=places.output / "runs",
    )
    for note in made.notes:
        print(f"{note.kind:10}{note.text}")
    if summary is not None:
        common.print_summary(wanted.plan, places, summary)
    print(f"cells: {', '.join(f'{n} {word}' for word, n in sorted(made.words.items())) or 'none'}")
    print(f"report    {made.page}")
    return 1 if summary is not None and not summary.ok else 0
