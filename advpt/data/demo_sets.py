"""Data sets that are made here at first use: scikit-learn's handwritten digits (1,797 real 8x8 scans of UCI), and what
the demo derives from them or draws.

The demo's sets stand for the pairs of a natural source and its shifted copies (ImageNet and its variants) where nothing
can be downloaded: DemoCLIP was trained on rendered signs of this kind, and on no handwritten one.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from advpt import files
from advpt.data import catalog, rendered
from advpt.data.facts import DatasetFacts
from advpt.data.images import read_rgb
from advpt.data.rendered import DIGIT_NAMES
from advpt.data.split import PARTS, Row, Split
from advpt.errors import DataError

# Versions of the rules below; they are the seeds of the draws, and of the ranking in :func:`digits_split`.
DIGITS_RULE = "advpt-digits-1"
RULE = "advpt-demo-sets-1"
COUNTS = (500, 100, 400)  # rendered digits to train, val, test
NOISE = 0.25  # standard deviation of the noise in noisy digits, of pixels in [0, 1]
ANGLES = (20.0, 45.0)  # degrees, to either side


@dataclass(frozen=True)
class MadeSet:
    """A data set that is made here: its facts, and the functions that make its split and draw an image."""

    facts: DatasetFacts
    split: Callable[[], Split]
    draw: Callable[[Path, Row], Image.Image]

    def images(self, root: Path) -> Path:
        """The folder of its images."""
        return root / self.facts.folder / self.facts.image_dir


# --- handwritten digits ---------------------------------------------------------------------------------------------


def digits_split() -> Split:
    """The fixed split: 897 train, 300 val, 600 test.

    Per class, images are ranked by the SHA-256 of ``<rule>:<index>`` (so no library's random generator
    decides); the first go to test, the next to val, the rest to train. How many per class follows the class
    sizes, rounded by largest remainder so that the totals are exact. Lists are in order of label, then index.
    """
    facts, labels = catalog.get("Digits"), _source().target
    members = [np.flatnonzero(labels == label).tolist() for label in range(facts.classes)]
    sizes = [len(indices) for indices in members]
    _, n_val, n_test = facts.counts
    tests, vals = _shares(n_test, sizes), _shares(n_val, sizes)
    train: list[Row] = []
    val: list[Row] = []
    test: list[Row] = []
    for label, indices in enumerate(members):
        ranked = sorted(indices, key=lambda i: hashlib.sha256(f"{DIGITS_RULE}:{i}".encode()).digest())
        cut, end = tests[label], tests[label] + vals[label]
        for part, chosen in ((test, ranked[:cut]), (val, ranked[cut:end]), (train, ranked[end:])):
            part.extend((f"{DIGIT_NAMES[label]}/{i:04d}.png", label, DIGIT_NAMES[label]) for i in sorted(chosen))
    return Split(tuple(train), tuple(val), tuple(test))


def _shares(total: int, sizes: list[int]) -> list[int]:
    """``total`` shared in proportion to ``sizes``, the rest after rounding to the largest remainders."""
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: (-(total * sizes[i] % whole), i))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares


@functools.cache
def _scans() -> np.ndarray:
    """``[1797, 8, 8]`` uint8."""
    return np.rint(_source().images * (255 / 16)).astype(np.uint8)


def _source() -> Any:
    """scikit-learn's copy of the set."""
    from sklearn.datasets import load_digits  # most of a second to import

    return load_digits()


def _draw_scan(root: Path, row: Row) -> Image.Image:
    return Image.fromarray(_scans()[int(Path(row[0]).stem)], mode="L")


DIGITS = MadeSet(catalog.get("Digits"), digits_split, _draw_scan)


# --- the demo's sets ------------------------------------------------------------------------------------------------


def _facts(name: str, folder: str, counts: tuple[int, int, int]) -> DatasetFacts:
    return DatasetFacts(
        name=name,
        aliases=(folder,),
        folder=folder,
        image_dir="images",
        classes=len(DIGIT_NAMES),
        counts=counts,
        template=DIGITS.facts.template,
        licence="made by this project, the handwriting from UCI (CC BY 4.0)",
    )


def _rendered_split() -> Split:
    parts = (
        tuple(
            (f"{part}/{name}/{i:04d}.png", label, name)
            for label, name in enumerate(DIGIT_NAMES)
            for i in range(n // len(DIGIT_NAMES))
        )
        for part, n in zip(PARTS, COUNTS)
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
    return Split((), (), digits_split().test)


def handwritten(root: Path, row: Row) -> Image.Image:
    """A scan at the size of the demo's images."""
    image = read_rgb(DIGITS.images(root) / row[0])
    return image.convert("L").resize((rendered.SIZE, rendered.SIZE), Image.Resampling.BICUBIC)


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


RENDERED = MadeSet(_facts("RenderedDigits", "rendered_digits", COUNTS), _rendered_split, _draw_rendered)
NOISY = MadeSet(_facts("NoisyDigits", "noisy_digits", (0, 0, 600)), _test_split, _draw_noisy)
ROTATED = MadeSet(_facts("RotatedDigits", "rotated_digits", (0, 0, 600)), _test_split, _draw_rotated)
BY_ALIAS = {alias: made.facts for made in (RENDERED, NOISY, ROTATED) for alias in made.facts.aliases}


def prepare(made: MadeSet, root: Path) -> Path:
    """Write the images, and the split file where the facts name one, unless they are there; returns their folder.

    Images are renamed into place only when all are there, so this can be called twice, and by two processes at once.

    Raises:
        DataError: the folder cannot be written.
    """
    folder = root / made.facts.folder
    try:
        if not made.images(root).is_dir():
            if made is not DIGITS:
                prepare(DIGITS, root)
                note = f"{made.facts.name}, rule {RULE}; delete this folder to have it made again\n"
                files.write_text(folder / "MADE_BY.txt", note)
            _draw_all(made, root)
        if made.facts.split and not (folder / made.facts.split.filename).is_file():
            files.write_text(folder / made.facts.split.filename, made.split().as_text())
    except OSError as error:
        raise DataError(
            f"{made.facts.name}: cannot write the images under {folder} ({error}). Give a writable --root"
        ) from error
    return folder


def _draw_all(made: MadeSet, root: Path) -> None:
    with files.atomic_folder(made.images(root)) as partial:
        for rows in made.split().parts().values():
            for row in rows:
                path = partial / row[0]
                path.parent.mkdir(parents=True, exist_ok=True)
                made.draw(root, row).save(path)
