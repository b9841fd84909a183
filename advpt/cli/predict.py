"""``python -m advpt predict``."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tabulate import tabulate
from torchvision.utils import save_image

from advpt.data import listing
from advpt.errors import ConfigError
from advpt.files import atomic_path
from advpt.model import Model, load
from advpt.prediction import Batch, DamagedImage, Prediction, predictions, read_batches
from advpt.progress import Bar
from advpt.robustness import attack

FIELDS = tuple(field.name for field in dataclasses.fields(Prediction))
ATTACKED = tuple(f"attacked_{name}" for name in FIELDS[1:])


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", type=Path, help="a finished run's folder, of any trainer")
    sub.add_argument("images", nargs="+", help="image files, folders of them, or - for paths from standard input")
    sub.add_argument("--json", action="store_true", help="one JSON object per line in place of the table")
    sub.add_argument("--csv", action="store_true", help="comma-separated values in place of the table")
    sub.add_argument("--attack", default="", metavar="SPEC", help="also attack each image: pgd40-ce@4")
    sub.add_argument("--save-images", type=Path, metavar="DIR", help="keep clean and attacked images there, as PNG")
    sub.add_argument("--defense", default="", metavar="SPEC", help="defense of the input, as in EVAL.DEFENSES")
    sub.add_argument("--test-time", default="", metavar="SPEC", help="defense at test time, as in EVAL.TEST_TIME")
    sub.add_argument("--weights", default="", metavar="FILE", help="CLIP's weights, where they lie elsewhere now")
    sub.add_argument("--batch", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    sub.add_argument("--device", default="", help="cpu, cuda, ... (default: cuda where there is one)")
    sub.add_argument("--seed", type=int, default=0, help="of attacks and defenses")


def run(args: argparse.Namespace) -> int:
    """What a tuned model takes images for: label, confidence and runner-up. Damaged images are named at the end, and
    the exit status is 1 where there are any."""
    if args.json and args.csv:
        raise ConfigError("--json and --csv are two forms of one output; give one of them")
    if args.batch < 1:
        raise ConfigError(f"--batch is {args.batch}; give the number of images at a time, at least 1")
    if args.save_images and not args.attack:
        raise ConfigError("--save-images keeps images with what an attack makes of them; add --attack pgd40-ce@4")
    paths = image_paths(args.images)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load(
        args.run, device=device, weights=args.weights, defense=args.defense, test_time=args.test_time, seed=args.seed
    )
    names = FIELDS + (ATTACKED if args.attack else ())
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n") if args.csv else None
    if writer is not None:
        writer.writeheader()
    rows, damaged = list[Row](), list[DamagedImage]()
    with Bar("images", len(paths), "image") as bar:
        for part in read_batches(model, paths, args.batch):
            damaged += part.damaged
            for row in answers(model, part, args.attack, args.save_images, bar.done, args.seed):
                if args.json:
                    print(json.dumps(row.fields(), ensure_ascii=False), flush=True)
                elif writer is not None:
                    writer.writerow(row.fields())
                else:
                    rows.append(row)
            bar.update(len(part.names) + len(part.damaged))
    if rows:
        print(table(rows))
    for image in damaged:
        print(f"not read: {image.image}: {image.reason}", file=sys.stderr)
    if damaged:
        print(f"{len(damaged)} of {len(paths)} images could not be read", file=sys.stderr)
    return 1 if damaged else 0


@dataclass(frozen=True)
class Row:
    """The answer to an image, and to the attacked one."""

    clean: Prediction
    attacked: Prediction | None = None

    def fields(self) -> dict[str, str | float]:
        """Its values by name, of :data:`FIELDS` and :data:`ATTACKED`."""
        fields = dataclasses.asdict(self.clean)
        if self.attacked is not None:
            fields |= {f"attacked_{k}": v for k, v in dataclasses.asdict(self.attacked).items() if k != "image"}
        return fields


def image_paths(given: Sequence[str]) -> list[str]:
    """The image files that are meant: files as they are, all images below folders, and lines of standard input for -.

    Raises:
        ConfigError: nothing is meant, or a folder without an image.
    """
    paths = list[str]()
    for text in given:
        if text == "-":
            paths += [line.rstrip("\n") for line in sys.stdin if line.strip()]
        elif (folder := Path(text).expanduser()).is_dir():
            inside = [str(folder / name) for name in listing.scan(folder).images]
            if not inside:
                raise ConfigError(f"{folder} holds no image")
            paths += inside
        else:
            paths.append(text)
    if not paths:
        raise ConfigError("no image to look at: give files, folders, or - and their paths on standard input")
    return paths


def answers(model: Model, part: Batch, spec: str, save: Path | None, first: int, seed: int) -> Iterator[Row]:
    """What the model takes a batch for, and after an attack away from that answer.

    Args:
        spec: the attack, "" for none.
        save: folder of both images, whose names begin with their place, from ``first`` on.
    """
    clean = predictions(model, part.names, part.pixels)
    if not spec or not clean:
        yield from map(Row, clean)
        return
    labels = torch.tensor([model.classnames.index(each.label) for each in clean], device=model.device)
    attacked = attack(spec, model, part.pixels.to(model.device), labels, seed=seed).cpu()
    for place, (before, after) in enumerate(zip(clean, predictions(model, part.names, attacked))):
        if save is not None:
            name = f"{first + place:05d}-{Path(before.image).stem}"
            for pixels, kind in ((part.pixels[place], "clean"), (attacked[place], "attacked")):
                with atomic_path(save / f"{name}-{kind}.png") as partial:
                    save_image(pixels, partial, format="png")
        yield Row(before, after)


def table(rows: Sequence[Row]) -> str:
    """One line per image."""
    heads = ["image", "label", "confidence", "runner-up", "confidence"]
    lines = []
    for row in rows:
        line = [row.clean.image, *cells(row.clean)]
        if row.attacked is not None:
            line += cells(row.attacked)[:2]
        lines.append(line)
    if rows[0].attacked is not None:
        heads += ["attacked", "confidence"]
    return tabulate(lines, heads, disable_numparse=True)


def cells(made: Prediction) -> list[str]:
    second = f"{100 * made.runner_up_confidence:.1f} %" if made.runner_up else ""
    return [made.label, f"{100 * made.confidence:.1f} %", made.runner_up, second]
