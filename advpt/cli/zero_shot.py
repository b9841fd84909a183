"""``python -m advpt zero-shot``."""

from __future__ import annotations

import argparse
from pathlib import Path

from advpt.cli import common
from advpt.data import zero_shot as protocol
from advpt.jobs import image_weights, zero_shot
from advpt.jobs.places import runs
from advpt.results.zero_shot import ZeroShotTable, fill

ATTACK = "pgd10-ce@1/a1"  # ten steps of 1/255, as TeCoA's family evaluates
SUBSETS = ("all", "robustbench5000", "robustbench1000")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", required=True, metavar="M", help="of configs/backbones, or democlip")
    sub.add_argument("--image-weights", default="", metavar="F", help="another image tower: file, hf-hub:, local-dir:")
    sub.add_argument("--attack", action="append", default=[], metavar="A", help=f"default: {ATTACK}; may be repeated")
    sub.add_argument("--sets", default="", metavar="S", help="for instance pets,dtd (default: all with data)")
    for option, words, mark, text in (
        ("--protocol", ("", *protocol.PROTOCOLS), "P", "tecoa (the default) or coop"),
        ("--templates", protocol.TEMPLATE_SETS, "T", "tecoa or fare (default: the protocol's)"),
        ("--attack-at", ("model", "native"), "A", "native: CIFAR and STL-10 at their own size"),
        ("--imagenet", SUBSETS, "S", " or ".join(SUBSETS[1:])),
    ):
        sub.add_argument(option, default=words[0], choices=words, metavar=mark, help=text)
    sub.add_argument("--subset", type=int, default=0, metavar="N", help="images of each (default: all)")
    sub.add_argument("--method", default="", metavar="M", help="the tower as papers call it: TeCoA")
    sub.add_argument("--train-set", default="none", metavar="D", help='of papers: "TinyImageNet eps1"')
    sub.add_argument("--output", type=Path, default=Path("output", "zero_shot"), metavar="O")
    sub.add_argument("--banks", type=Path, default=Path("banks"), metavar="B")
    common.add_plan_arguments(sub)
    sub.usage = "%(prog)s --model NAME [options]"


def run(args: argparse.Namespace) -> int:
    """One model on all data sets of the zero-shot robustness protocol that have data: clean and robust accuracy, and
    their means. Runs that are done are skipped, broken ones continue. Returns 1 where a run failed."""
    common.register_plugins()
    places, more = common.places_and_settings(args, args.output, args.banks)
    asked = zero_shot.Evaluation(
        model=args.model,
        attacks=tuple(args.attack) or (ATTACK,),
        image_weights=image_weights.absolute(args.image_weights),
        protocol=args.protocol,
        attack_at=args.attack_at,
        templates=args.templates,
        subset=args.subset,
        imagenet=args.imagenet,
        method=args.method,
        train_set=args.train_set,
        more=more,
    )
    there, absent = zero_shot.split_by_data(asked.sets(common.words(args.sets)), places.root, asked.images_of)
    if not args.dry_run:
        image_weights.fetch(asked.image_weights)
    plan, measured = zero_shot.plan_of(asked, there, places.repository)
    common.print_plan(plan, places, args)
    common.print_missing(plan, places)
    for line in absent:
        print(f"missing   {line}")
    if args.dry_run:
        return 0
    summary = common.execute(plan, places, args)
    rows, index = fill(measured, asked.attacks, runs(plan, places), asked.tower(places.repository))
    title = f"{args.model}{f' with {Path(args.image_weights).name}' if args.image_weights else ''}, protocol "
    print(f"\n{ZeroShotTable(title + asked.images_of, asked.attacks, rows, tuple(absent)).text()}\n")
    for note in index.notes:
        print(f"{note.kind:10}{note.text}")
    common.print_summary(plan, places, summary)
    return 0 if summary.ok else 1
