"""``python -m advpt report``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from advpt.jobs.methods import ADVPT, FIRST_IN_TABLES
from advpt.results import render
from advpt.results.report import overview


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folders", type=Path, nargs="+", help="output folders of finished runs")
    sub.add_argument("--format", default="github", choices=["github", "plain", "latex_booktabs", "tsv"])
    sub.add_argument("--page", type=Path, help="also write the tables, with the records behind them, as an HTML page")


def run(args: argparse.Namespace) -> int:
    """Tables of all records below the folders."""
    print_tables(args.folders, args.format, args.page)
    return 0


def print_tables(folders: Sequence[Path], format: str = "github", page: Path | None = None) -> None:
    """One table for each data set and backbone, with paired comparisons, and where the page with them is."""
    for table in overview(folders, FIRST_IN_TABLES, ADVPT, page):
        print(f"\n{render.text(table, format)}\n")
    if page is not None:
        print(f"page      {page}")
