"""``python -m advpt bank``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tabulate import tabulate

from advpt.bank.statistics import KIND, is_statistics, open_statistics
from advpt.bank.store import MANIFEST, open_bank, read_manifest
from advpt.errors import BankError


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("action", choices=["ls", "verify"])
    sub.add_argument("folder", type=Path, nargs="?", default=Path("banks"))


def run(args: argparse.Namespace) -> int:
    """List the banks below a folder, or verify them against their checksums."""
    rows, bad = [], 0
    for folder in sorted(path.parent for path in args.folder.glob(f"**/{MANIFEST}")):
        name = str(folder.relative_to(args.folder))[:70]
        try:
            rows.append([name, *_row(folder, verify=args.action == "verify")])
        except BankError as error:
            bad += 1
            rows.append([name, "", "", f"BAD: {error}"])
    print(tabulate(rows, headers=["bank", "attack", "images", "state"]) if rows else f"no banks below {args.folder}")
    return 1 if bad else 0


def _row(folder: Path, *, verify: bool) -> list[str]:
    manifest = read_manifest(folder)
    made = manifest["spec"]["adversarial_set"]
    if is_statistics(manifest):
        return [KIND, made["data"]["n"], "ok" if verify and open_statistics(folder).count else ""]
    attack = made["attack"]
    label = "clean" if attack is None else f"{attack['name']}-{attack['objective']}@{attack['eps']:g}"
    return [label, made["data"]["n"], "ok" if verify and len(open_bank(folder, None, verify=True)) else ""]
