"""``python -m advpt prompt``."""

from __future__ import annotations

import argparse
from pathlib import Path

from advpt.prompts import exchange


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", type=Path, help="a .pth.tar file or a run's folder (CoOp's, the official AdvPT's, ours)")
    sub.add_argument("folder", type=Path, nargs="?", help="write it there in CoOp's layout, plain tensors only")


def run(args: argparse.Namespace) -> int:
    """Show a learned prompt, or convert between checkpoints of CoOp, the official AdvPT and this project."""
    prompt = exchange.read(args.source)
    print(prompt)
    if args.folder:
        folder = exchange.write_run(prompt, args.folder)
        print(f"wrote {folder}; evaluate it with --eval-only --model-dir {args.folder}")
    return 0
