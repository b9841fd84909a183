"""``python -m advpt report``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from advpt.results.collect import collect
from advpt.results.table import groups, render, render_comparisons


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folders", type=Path, nargs="+", help="output folders of finished runs")
    sub.add_argument("--format", default="github", choices=["github", "plain", "latex_booktabs", "tsv"])


def run(args: argparse.Namespace) -> int:
    """Tables of all records below the folders."""
    print_tables(args.folders, args.format)
    return 0


def print_tables(folders: Sequence[Path], format: str = "github") -> None:
    """One table for each data set and backbone, and paired comparisons below it."""
    for group in groups(collect(folders)):
        print(f"\n{render(group, format)}\n")
        if comparisons := render_comparisons(group):
            print(f"{comparisons}\n")
