"""``python -m advpt export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from advpt.backbones import extras
from advpt.cli.common import require_run
from advpt.export import PACKAGES, to_onnx, to_safetensors
from advpt.model import load
from advpt.schema import JsonObject

NAMES = {"safetensors": "head.safetensors", "onnx": "model.onnx"}  # in the run's folder


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", metavar="RUN", type=Path, help="a finished run's folder, of any trainer")
    sub.add_argument("--to", choices=[*NAMES], default="safetensors", help="text features and scale, or all of it")
    sub.add_argument(
        "--output", type=Path, metavar="FILE", help="(default: head.safetensors or model.onnx in the run's folder)"
    )
    sub.add_argument("--weights", default="", metavar="FILE", help="CLIP's weights, where they lie elsewhere now")
    sub.add_argument("--image-weights", default="", metavar="FILE", help="as --weights, of a robust image tower")


def run(args: argparse.Namespace) -> int:
    """A tuned model for other programs: text features with their scale, class names and provenance (safetensors), or
    pixels to logits (onnx, compared with ours before it is written). docs/use.md has the lines that use them."""
    require_run(args.folder)
    for package in PACKAGES if args.to == "onnx" else ():
        extras.need(package, "an export to ONNX")
    path = args.output or args.folder
    path = path / NAMES[args.to] if path.is_dir() else path
    model = load(args.folder, weights=args.weights, image_weights=args.image_weights)
    if args.to == "safetensors":
        about = to_safetensors(model, path)
        print(f"wrote {path}: {about_head(about)}")
        return 0
    difference = to_onnx(model, path)
    height, width = model.preprocessing.size
    print(
        f"wrote {path}: pixels [b, 3, {height}, {width}] in [0, 1] to logits [b, {len(model.classnames)}]; it differs "
        f"from ours by {difference.logits:.1e} in a logit and {difference.features:.1e} of the embeddings"
    )
    return 0


def about_head(about: JsonObject) -> str:
    """Sentences on what a head is and which image tower it needs."""
    kind, name = "a linear layer" if about["trainer"] == "LinearProbe" else "text features", about["backbone"]["name"]
    text = f"{kind} of {len(about['classnames'])} classes for {name}"
    if (tower := about["image_tower"]) is None:
        return text
    if sha := tower.get("sha256"):
        place = f"{tower.get('repository') or tower.get('file') or 'a file'}, SHA-256 {sha[:12]}"
        return f"{text}. It works with the image tower of the run alone ({place}), not with {name}'s own"
    if not tower["file"]:
        return f"{text}. It is not the model: the run tuned the image tower, and has no file of it; use --to onnx"
    return f"{text}. It is not the model: the run tuned the image tower, and the head works with {tower['file']} alone"
