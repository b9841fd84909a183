"""``python -m advpt predict``."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from advpt.attacks import parse
from advpt.cli.answers import Csv, JsonLines, Row, Table, Writer, visible, write
from advpt.cli.common import device, require_run
from advpt.data import listing
from advpt.errors import ConfigError, out_of_memory
from advpt.files import atomic_path
from advpt.model import Model, load
from advpt.prediction import BATCH, Batch, DamagedImage, predictions, read_batches
from advpt.progress import Bar
from advpt.robustness import attack
from advpt.signals import INTERRUPTED, TERMINATED, Terminated

STEM = 40  # letters of an image's name in those of saved ones


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", metavar="RUN", type=Path, help="a finished run's folder, of any trainer")
    sub.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="files, folders, or - for paths from standard input, one a line (or with NUL between: find -print0)",
    )
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per line in place of the table")
    form.add_argument("--csv", action="store_true", help="comma-separated values in place of the table")
    sub.add_argument("--attack", default="", metavar="SPEC", help="also attack each image: pgd40-ce@4")
    sub.add_argument("--save-images", type=Path, metavar="DIR", help="keep clean and attacked images there, as PNG")
    sub.add_argument("--defense", default="", metavar="SPEC", help="defense of the input, as in EVAL.DEFENSES")
    sub.add_argument("--test-time", default="", metavar="SPEC", help="defense at test time, as in EVAL.TEST_TIME")
    sub.add_argument("--weights", default="", metavar="FILE", help="CLIP's weights, where they lie elsewhere now")
    sub.add_argument("--image-weights", default="", metavar="FILE", help="as --weights, of a robust image tower")
    sub.add_argument("--batch", type=int, default=BATCH, metavar="N", help=f"images at a time (default: {BATCH})")
    sub.add_argument("--device", default="", help="cpu, cuda, ... (default: cuda where there is one)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of attacks and defenses (default: 0)")


def run(args: argparse.Namespace) -> int:
    """What a tuned model takes images for: label, confidence and runner-up. Damaged images are named at the end, and
    the exit status is 1 where there are any. docs/use.md has examples."""
    if args.batch < 1:
        raise ConfigError(f"--batch is {args.batch}; give the number of images at a time, at least 1")
    if args.save_images and not args.attack:
        raise ConfigError("--save-images keeps images with what an attack makes of them; add --attack pgd40-ce@4")
    if args.attack:
        parse(args.attack).build()  # what cannot be used ends here, not behind the first images
    require_run(args.folder)
    paths = image_paths(args.images)
    model = load(
        args.folder,
        device=device(args.device),
        weights=args.weights,
        image_weights=args.image_weights,
        defense=args.defense,
        test_time=args.test_time,
        seed=args.seed,
    )
    threat = Threat(args.attack, args.seed, args.save_images) if args.attack else None
    return answer(model, paths, threat, writer(args), args.batch)


def writer(args: argparse.Namespace) -> Writer:
    """The form of the answers that the command line asks for."""
    if args.csv:
        return Csv(attacked=bool(args.attack), saved=args.save_images is not None)
    return JsonLines() if args.json else Table()


@dataclass(frozen=True)
class Threat:
    """An attack on every image, away from the model's own answer.

    Args:
        spec: as in ``EVAL.ATTACKS``. seed: of its draws.
        folder: that clean and attacked images are saved in, None for none.
    """

    spec: str
    seed: int
    folder: Path | None = None


def answer(model: Model, paths: Sequence[str], threat: Threat | None, out: Writer, batch: int) -> int:
    """Answer to all images and name those that cannot be read; the exit status. What was answered is written where
    something ends it early."""
    damaged, made, changed = list[DamagedImage](), 0, 0
    bar = Bar("images", len(paths), "image", shown=not (out.streams and sys.stdout.isatty()))
    stop: KeyboardInterrupt | None = None
    with contextlib.ExitStack() as last:
        last.callback(out.close)
        with bar:
            try:
                for part in read_batches(model.preprocessing, paths, batch):
                    rows = list(answers(model, part, threat))
                    out.add(rows)
                    damaged += part.damaged
                    made += len(rows)
                    changed += sum(row.attacked is not None and row.attacked.label != row.clean.label for row in rows)
                    bar.update(len(part))
            except KeyboardInterrupt as interrupt:
                stop = interrupt
            except RuntimeError as error:
                if reason := out_of_memory(error):
                    raise ConfigError(f"--batch {batch} is too many images at a time ({reason}); give fewer") from error
                raise
    if threat is not None and made and not out.streams:
        saved = f"; both images of each are in {threat.folder}" if threat.folder else ""
        write(f"\n{threat.spec} changes {changed} of {made} answers{saved}\n")
    for image in damaged:
        sys.stderr.write(f"not read: {visible(image.reason)}\n")
    if damaged:
        sys.stderr.write(f"{len(damaged):,} of {len(paths):,} images could not be read\n")
    if stop is not None:
        sys.stderr.write(f"stopped after {made + len(damaged):,} of {len(paths):,} images\n")
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
    return 1 if damaged else 0


def image_paths(given: Sequence[str]) -> list[str]:
    """The image files that are meant: files as they are, all images below folders, and lines of standard input for -.

    Raises:
        ConfigError: nothing is meant, or a folder without an image.
    """
    paths = list[str]()
    for text in given:
        for path in from_standard_input() if text == "-" else [text]:
            paths += below(path)
    if not paths:
        raise ConfigError("standard input names no image: give their paths there, one a line")
    return paths


def from_standard_input() -> list[str]:
    """The paths on standard input: its lines, or what stands between NUL bytes where it has any."""
    data = sys.stdin.buffer.read() if sys.stdin is not None else b""
    lines = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line]


def below(path: str) -> list[str]:
    """The images in a folder, at any depth; ``path`` itself where it is no folder."""
    try:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            return [path]
    except (ValueError, RuntimeError, OSError):  # a name that no file can have: it is damaged
        return [path]
    inside = listing.scan(folder)
    if not inside.images:
        others = f"; it has other files: {listing.some(inside.left_out, 3)}" if inside.left_out else ""
        raise ConfigError(f"the folder {folder} holds no image (.jpg, .png, ...){others}")
    return [str(folder / name) for name in inside.images]


def answers(model: Model, part: Batch, threat: Threat | None) -> Iterator[Row]:
    """What the model takes a batch for, and what after an attack."""
    clean = predictions(model, part.names, part.pixels)
    if threat is None or not clean:
        yield from map(Row, clean)
        return
    labels = torch.tensor([model.classnames.index(each.label) for each in clean], device=model.device)
    images = attacked(threat, model, part, labels)
    after = predictions(model, part.names, images)
    if threat.folder is None:
        yield from map(Row, clean, after)
        return
    stored = eight_bits(images)
    answered = predictions(model, part.names, stored.float() / 255)
    for i, place in enumerate(part.places):
        start = f"{place:05d}-{file_words(Path(part.names[i]).stem)}"
        files = [threat.folder / f"{start}-{kind}.png" for kind in ("clean", "attacked")]
        for file, pixels in zip(files, (eight_bits(part.pixels[i]), stored[i])):
            with atomic_path(file) as partial:
                Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(partial, format="PNG")
        yield Row(clean[i], after[i], answered[i], *map(str, files))


def attacked(threat: Threat, model: Model, part: Batch, labels: Tensor) -> Tensor:
    """Attacked images, on the CPU. What becomes of one depends on its place in the whole list and the seed, and on no
    other image: where an attack looks at its whole batch, each image is one."""
    keys = [str(place) for place in part.places]
    at_once = len(keys) if parse(threat.spec).build().by_image else 1
    made = []
    for start in range(0, len(keys), at_once):
        some = slice(start, start + at_once)
        pixels = part.pixels[some].to(model.device)
        made.append(attack(threat.spec, model, pixels, labels[some], seed=threat.seed, keys=keys[some]).cpu())
    return torch.cat(made)


def eight_bits(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] as a file has them: the nearest of 256 levels, uint8."""
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def file_words(name: str) -> str:
    """A part of a file's name that any system takes: its first letters, others than letters and digits as _."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name[:STEM])
