"""``python -m advpt defenses``."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from advpt.defenses import DEFENSES, parse


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("spec", nargs="*", help="chains to expand, for instance super:advpt+rescale")


def run(args: argparse.Namespace) -> int:
    """Defenses and their profiles, and what a chain expands to."""
    if args.spec:
        for text in args.spec:
            print(f"{text} = {parse(text).expanded}")
        return 0
    rows = []
    for kind in map(DEFENSES.get, DEFENSES):
        about = [kind.summary, kind.gradient_note or "own", "yes" if kind.draws_noise else "no"]
        for profile, options in kind.profiles.items():
            rows.append([f"{kind.name}:{profile}", *about, "/".join(f"{k}={v}" for k, v in options.items())])
            about = ["", "", ""]
    print(tabulate(rows, headers=["defense", "what it does", "gradient", "random", "options"], disable_numparse=True))
    return 0
