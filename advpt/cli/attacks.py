"""``python -m advpt attacks``."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from advpt.attacks import ATTACKS, parse_all
from advpt.attacks.objectives import OBJECTIVES


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("spec", nargs="*", help="specifications to expand, for instance pgd40@16")


def run(args: argparse.Namespace) -> int:
    """Attacks and objectives, and what a specification expands to."""
    if args.spec:
        for text in args.spec:
            for spec in parse_all(text):
                print(f"{text} = {spec}: {spec.build()!r}")
        return 0
    print(tabulate([[n, ATTACKS.get(n).summary] for n in ATTACKS], headers=["attack", "what it does"]))
    rows = [[o.name, o.space, "yes" if o.uses_labels else "no", o.summary] for o in OBJECTIVES.values()]
    print("\n" + tabulate(rows, headers=["objective", "space", "labels", "what it makes large"]))
    return 0
