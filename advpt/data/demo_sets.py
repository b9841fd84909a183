"""Data sets that the demo makes for itself: rendered digits to tune on, noisy and rotated real digits to test on.

They stand for the pairs of a natural source and its shifted copies (ImageNet and its variants) where nothing can be
downloaded: DemoCLIP was trained on rendered signs of this kind, and on no handwritten one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from advpt.data import digits, rendered
from advpt.data.entries import DIGIT_NAMES
from advpt.data.facts import DatasetFacts
from advpt.data.images import read_rgb
from advpt.data.split import Row, Split
from advpt.errors import DataError
from advpt.files import atomic_folder, write_text

RULE = "advpt-demo-sets-1"  # the version of the rules below, and the seed of their draws
COUNTS = (500, 100, 400)  # rendered digits to train, val, test
SIDE = rendered.SIZE
NOISE = 0.25  # standard deviation of the noise in noisy digits, of pixels in [0, 1]
ANGLES = (20.0, 45.0)  # degrees, to either side
TEMPLATE = "a photo of the digit {}."


@dataclass(frozen=True)
class DemoSet:
    """A data set of the demo: its facts, and the functions that make its split and draw an image."""

    facts: DatasetFacts
    split: Callable[[], Split]
    draw: Callable[[Path, Row], Image.Image]


def _facts(name: str, folder: str, counts: tuple[int, int, int]) -> DatasetFacts:
    return DatasetFacts(
        name=name,
        aliases=(folder,),
        folder=folder,
        image_dir="images",
        classes=len(DIGIT_NAMES),
        counts=counts,
        template=TEMPLATE,
        licence="made by this project, the handwriting from UCI (CC BY 4.0)",
    )


def _rendered_split() -> Split:
    parts = []
    for part, n in zip(("train", "val", "test"), COUNTS):
        per = n // len(DIGIT_NAMES)
        parts.append(
            tuple(
                (f"{part}/{name}/{i:04d}.png", label, name)
                for label, name in enumerate(DIGIT_NAMES)
                for i in range(per)
            )
        )
    return Split(*parts)


def _draw_rendered(root: Path, row: Row) -> Image.Image:
    """A printed digit as DemoCLIP's pre-training draws them, from draws that depend on the path alone."""
    seed = _seed(row[0])
    mask, _ = rendered.draw(random.Random(seed), rendered.DIGITS[row[1]].text, rendered.fonts())
    generator = torch.Generator().manual_seed(seed)
    pick = torch.randint(2**20, (2,), generator=generator).tolist()
    ink = list(rendered.COLOURS.values())[pick[0] % len(rendered.COLOURS)]
    paper = list(rendered.BACKGROUNDS.values())[pick[1] % len(rendered.BACKGROUNDS)]
    pixels = rendered.warp(torch.from_numpy(mask.copy())[None, None].float() / 255, generator)
    pixels = rendered.colour(pixels, torch.tensor([ink]), torch.tensor([paper]), generator)
    return Image.fromarray((pixels[0].permute(1, 2, 0) * 255).round().byte().numpy())


def _test_split() -> Split:
    return Split((), (), digits.split().test)


def handwritten(root: Path, row: Row) -> Image.Image:
    image = read_rgb(root / digits.DIGITS.folder / digits.DIGITS.image_dir / row[0])
    return image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _draw_noisy(root: Path, row: Row) -> Image.Image:
    rng = np.random.default_rng(_seed(f"noisy {row[0]}"))
    pixels = np.asarray(handwritten(root, row), dtype=np.float32) / 255
    noisy = np.clip(pixels + NOISE * rng.standard_normal(pixels.shape), 0, 1)
    return Image.fromarray(np.rint(noisy * 255).astype(np.uint8), mode="L")


def _draw_rotated(root: Path, row: Row) -> Image.Image:
    rng = random.Random(_seed(f"rotated {row[0]}"))
    angle = rng.choice((-1, 1)) * rng.uniform(*ANGLES)
    return handwritten(root, row).rotate(angle, resample=Image.Resampling.BICUBIC)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{RULE}:{text}".encode()).digest()[:6], "big")


RENDERED = DemoSet(_facts("RenderedDigits", "rendered_digits", COUNTS), _rendered_split, _draw_rendered)
NOISY = DemoSet(_facts("NoisyDigits", "noisy_digits", (0, 0, 600)), _test_split, _draw_noisy)
ROTATED = DemoSet(_facts("RotatedDigits", "rotated_digits", (0, 0, 600)), _test_split, _draw_rotated)
BY_ALIAS = {alias: made.facts for made in (RENDERED, NOISY, ROTATED) for alias in made.facts.aliases}


def prepare(made: DemoSet, root: Path) -> Path:
    """Write the images under ``<root>/<folder>/images`` unless they are there; returns that folder's parent.

    A set is renamed into place only when it is complete, so two processes may call this at once.

    Raises:
        DataError: the folder cannot be written.
    """
    folder = root / made.facts.folder
    try:
        if not (folder / made.facts.image_dir).is_dir():
            digits.prepare(root)
            _write(made, root, folder)
        return folder
    except OSError as error:
        raise DataError(
            f"{made.facts.name}: cannot write the images under {folder} ({error}). Give a writable --root"
        ) from error


def _write(made: DemoSet, root: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "MADE_BY.txt", f"{made.facts.name}, rule {RULE}; delete this folder to have it made again\n")
    with atomic_folder(folder / made.facts.image_dir) as partial:
        for rows in made.split().parts().values():
            for row in rows:
                path = partial / row[0]
                path.parent.mkdir(parents=True, exist_ok=True)
                made.draw(root, row).save(path)
