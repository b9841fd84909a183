"""``python -m advpt defenses``."""

from __future__ import annotations

import argparse
import dataclasses

from tabulate import tabulate

from advpt import test_time
from advpt.defenses import DEFENSES, parse
from advpt.test_time import TEST_TIME


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("spec", nargs="*", help="chains to expand, for instance super:advpt+rescale, ttc or rescale+ttc")


def run(args: argparse.Namespace) -> int:
    """Defenses of the input, defenses at test time, their profiles, and what a chain expands to."""
    if args.spec:
        for text in args.spec:
            last = text.split("+")[-1].strip().split("/")[0].partition(":")[0]
            print(f"{text} = {(test_time.parse if last in TEST_TIME else parse)(text).expanded}")
        return 0
    rows = []
    for kind in map(DEFENSES.get, DEFENSES):
        about = [kind.summary, kind.gradient_note or "own", "yes" if kind.draws_noise else "no"]
        for profile, options in kind.profiles.items():
            rows.append([f"{kind.name}:{profile}", *about, "/".join(f"{k}={v}" for k, v in options.items())])
            about = ["", "", ""]
    print(tabulate(rows, headers=["defense", "what it does", "gradient", "random", "options"], disable_numparse=True))
    rows = []
    for each in map(TEST_TIME.get, TEST_TIME):
        summary = each.summary
        for profile, settings in each.profiles.items():
            values = "/".join(f"{k}={v}" for k, v in dataclasses.asdict(settings).items())
            rows.append([f"{each.name}:{profile}", summary, values])
            summary = ""
    print()
    print(tabulate(rows, headers=["at test time", "what it does", "options"], disable_numparse=True))
    return 0
