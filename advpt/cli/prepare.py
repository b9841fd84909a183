"""``python -m advpt prepare``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from advpt.cli import common
from advpt.data import prepare, steps
from advpt.errors import AdvPTError, ConfigError


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.usage = "%(prog)s [options] [NAME ...]"
    sub.add_argument(
        "names", nargs="*", help="data sets, for instance pets dtd; with --check, none means all there are"
    )
    sub.add_argument("--root", default="", help=common.ROOT_HELP)
    sub.add_argument("--archive", action="append", type=Path, default=[], help="a file you have; repeat for more")
    sub.add_argument("--from", dest="origin", type=Path, help="a folder you have: unpacked, or with the archives")
    sub.add_argument("--link", action="store_true", help="with --from: link to the images instead of copying them")
    sub.add_argument(
        "--offline", action="store_true", help="fetch nothing; without --archive or --from, print the steps"
    )
    sub.add_argument("--check", action="store_true", help="only compare what is there with the lists; change nothing")
    sub.add_argument("--decode", action="store_true", help="also open every image and list the bad ones")
    sub.add_argument("--sort-val", action="store_true", help="imagenet: move loose val images into class folders")
    sub.add_argument("--unverified", action="store_true", help="accept an archive of another hash")
    sub.add_argument("--keep-archives", action="store_true", help="keep what was downloaded in <data set>/.prepare")


def run(args: argparse.Namespace) -> int:
    """Bring data sets into CoOp's layout below --root: fetch, verify, unpack, compare with the lists. Returns 1 on
    differences and bad images, 2 where something could not be prepared."""
    root = common.root(args.root)
    chosen = prepare.chosen(args.names, root, look_only=args.check)
    if len(chosen) > 1 and args.archive:
        raise ConfigError("--archive belongs to one data set; prepare them one by one")
    if args.offline and not (args.archive or args.origin or args.check):
        print("\n\n".join(steps.manual(facts, root) for facts in chosen))
        return 0
    options = prepare.Options(
        archives=tuple(args.archive),
        origin=args.origin,
        link=args.link,
        offline=args.offline,
        unverified=args.unverified,
        keep=args.keep_archives,
        sort_val=args.sort_val,
    )
    rows, status = [], 0
    for facts in chosen:
        try:
            row, lines = prepare.prepare_or_check(facts, root, options, look_only=args.check, decode_images=args.decode)
        except AdvPTError as error:
            if args.verbose:
                raise
            print(f"error: {error}", file=sys.stderr)
            row, lines, status = [facts.name, "", "", "", "NOT PREPARED"], [], 2
        print("\n".join(lines), end="\n" if lines else "")
        status = max(status, 1 if lines else 0)
        rows.append(row)
    print(tabulate(rows, headers=prepare.HEADERS, disable_numparse=True))
    return status
