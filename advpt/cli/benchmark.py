"""``python -m advpt benchmark``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from advpt.cli import common
from advpt.cli.outside_images import reader
from advpt.errors import ConfigError, unknown_name
from advpt.jobs.builder import Builder
from advpt.jobs.exhibits.benchmark import BenchmarkPlan, plan_benchmark
from advpt.jobs.exhibits.benchmark_models import Models, alone, below
from advpt.jobs.outside_models import MeasuredModel, from_folder, measure
from advpt.jobs.places import Places, runs
from advpt.jobs.plan import Pairs, Plan
from advpt.jobs.recipes import Recipes
from advpt.jobs.setup import DEMO, PAPER, ReproductionSetup
from advpt.jobs.setup.benchmark import Choice
from advpt.results.report import write
from advpt.robustness import title_of
from advpt.settings import config_names

TITLE = "AdvPT: which published gains survive an attacker who knows the method"
ABOUT = "How many test images get their true class: as they are, and under attackers who know less or more."
GRID = ("prompts", "towers", "inputs", "defenses")
OWN = ("demo", "backbones", "prompts", "towers", "defenses")  # options that name our own models


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
    sub.add_argument(
        "--model", action="append", default=[], metavar="M", help="my.module:make, on --folder DIR or --sets"
    )
    sub.add_argument("--output", type=Path, metavar="DIR", help="default: output/benchmark, or output/benchmark-demo")
    sub.add_argument("--adaptive-subset", type=int, help=argparse.SUPPRESS)
    sub.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    sub.add_argument("--report-only", action="store_true", help=argparse.SUPPRESS)
    sub.add_argument("--banks", type=Path, help=argparse.SUPPRESS)
    common.add_plan_arguments(sub, brief=True)
    sub.usage = "%(prog)s [--demo] [options]"
    sub.epilog = "further: --report-only, --banks, --root, --engine, --weights, --set KEY VALUE"


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
    if min(seeds) < 0:
        raise ConfigError(f"--seeds {args.seeds}: expected whole numbers from 0")
    chosen = whole.benchmark.chosen(asked, whole.towers.training_attacks, *tuners())
    return dataclasses.replace(whole, benchmark=chosen, seeds=seeds)


def tuners() -> tuple[list[str], list[str]]:
    """Registered trainers of prompts or of what stands in their place, and of image towers."""
    from dassl.engine import TRAINER_REGISTRY

    common.register_plugins()
    kinds = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    ours = {name: kind for name, kind in kinds.items() if not getattr(kind, "tunes_at_test_time", True)}
    towers = [name for name, kind in ours.items() if kind.trains_encoder]
    return [name for name in ours if name not in towers], towers


def run(args: argparse.Namespace) -> int:
    """A grid of towers, prompts and defenses: whose gains survive attackers who know the method. Name --prompts,
    --towers, --inputs or --defenses, and it is of those alone. Returns 1 where a run failed."""
    common.register_plugins()
    setup = setup_of(args)
    output = args.output or Path("output", "benchmark-demo" if args.demo else "benchmark")
    places, more = common.places_and_settings(args, output, args.banks or output / "banks")
    own, sets = plans_own(args), models_sets(args, setup)
    wanted = plan_benchmark(setup, places.repository, more) if own else BenchmarkPlan((), Plan(()), ())
    if own:
        common.print_plan(wanted.plan, places, args)
    for line in wanted.left_out:
        print(f"left out  {line}")
    for text in args.model:
        print(f"model     {text} on {', '.join(sets)}")
    absent = common.print_missing(wanted.plan, places)
    if args.dry_run:
        return 0
    if absent and not args.report_only:
        raise common.without_data(absent, places, "name others with --sets")
    models = measured_models(args, sets, setup, places, more) if args.model else {}
    exhibits = below(wanted.exhibits, models) or alone(Builder(setup, places.repository, more), models)
    summary = None if args.report_only or not wanted.plan.jobs else common.execute(wanted.plan, places, args)
    made = write(
        exhibits,
        runs(wanted.plan, places) | {each.run.id: each.run for some in models.values() for each in some},
        places.output / "report",
        title=TITLE + (", as a demo" if args.demo else ""),
        about=ABOUT,
        top=places.output / "runs" if wanted.plan.jobs else None,
    )
    common.print_report(made, wanted.plan, places, summary)
    return 1 if summary is not None and not summary.ok else 0


# --- outside models ---------------------------------------------------------------------------------------------------


def plans_own(args: argparse.Namespace) -> bool:
    """Whether our own models are measured: always without ``--model``, and with it where some of them are named.

    Raises:
        ConfigError: they are named, and the images are those of a folder.
    """
    named = [f"--{name}" for name in OWN if getattr(args, name)]
    if args.folder and named:
        raise ConfigError(f"--folder has images for --model alone, and {named[0]} names our own models; leave one out")
    return not args.model or bool(named)


def models_sets(args: argparse.Namespace, setup: ReproductionSetup) -> tuple[str, ...]:
    """Names of the data sets of outside models.

    Raises:
        ConfigError: a folder without a model, or beside data sets that are named.
    """
    if not args.folder:
        return setup.benchmark.datasets
    if not args.model or args.sets:
        what = "and no --model is named; name one, as my.module:make" if not args.model else "and so has --sets"
        raise ConfigError(f"--folder {args.folder} has images for outside models, {what}")
    return (title_of(args.folder),)


def measured_models(
    args: argparse.Namespace, sets: tuple[str, ...], setup: ReproductionSetup, places: Places, more: Pairs
) -> Models:
    """Every outside model on every data set (``sets``: :func:`models_sets`). Skips what is done.

    Raises:
        ConfigError: there is nothing to run. AdvPTError: a model breaks a rule, or images are not there.
    """
    if args.report_only:
        raise ConfigError("--report-only runs nothing, and --model is code to run; leave one out")
    s = setup.benchmark
    read = {name: from_folder(args.folder) if args.folder else reader(name, places.root) for name in sets}
    made: dict[str, list[MeasuredModel]] = {}
    for text in args.model:
        measured = measure(
            text,
            read,
            [budget.attack for budget in s.budgets],
            places.output,
            places.banks,
            subset=s.subset,
            some=s.some if s.defenses or not plans_own(args) else s.subset,
            inputs=s.inputs,
            settings=(*setup.common, *s.settings, *more),
            show=print,
        )
        for name, each in zip(read, measured, strict=True):
            made.setdefault(setup.column(name), []).append(each)
            for line in each.left_out:
                print(f"left out  {line}")
    return made
