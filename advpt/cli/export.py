"""``python -m advpt export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from advpt.export import to_onnx, to_safetensors
from advpt.model import load

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx"}


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", type=Path, help="a finished run's folder, of any trainer")
    sub.add_argument("--to", choices=[*SUFFIXES], default="safetensors", help="text features and scale, or all of it")
    sub.add_argument(
        "--output", type=Path, metavar="FILE", help="(default: model.safetensors or model.onnx in the run)"
    )
    sub.add_argument("--weights", default="", metavar="FILE", help="CLIP's weights, where they lie elsewhere now")


def run(args: argparse.Namespace) -> int:
    """A tuned model for other programs: text features with their scale, class names and provenance (safetensors), or
    pixels to logits (onnx, compared with ours before it is written). docs/python.md has the lines that use them."""
    path = args.output or args.run / f"model{SUFFIXES[args.to]}"
    model = load(args.run, weights=args.weights)
    if args.to == "safetensors":
        about = to_safetensors(model, path)
        print(f"wrote {path}: text features of {len(model.classnames)} classes for {about['backbone']['name']}")
        return 0
    difference = to_onnx(model, path)
    height, width = model.preprocessing.size
    print(
        f"wrote {path}: pixels [b, 3, {height}, {width}] in [0, 1] to logits "
        f"[b, {len(model.classnames)}]; it differs from ours by {difference.logits:.1e} in a logit and "
        f"{difference.features:.1e} of the embeddings"
    )
    return 0
