"""Rendered characters and words with captions: the small world that DemoCLIP is pre-trained on.

Printed digits, letters and short words in the fonts that matplotlib ships, drawn in many sizes, slants and
thicknesses, coloured, put on a background, warped and made noisy. Captions name some of what is true of the
image: what it shows, its colour, its background, its size.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from tqdm import tqdm

SIZE = 32
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORDS = """
cat dog sun sea car bus cup hat bed box key map egg ice owl fox cow pig bee ant sky fog oak elm ivy tea jam pie nut ham
pen ink bag toy net log axe saw rug jar arm leg eye ear toe lip up on in at go we
"""
WORDS = tuple(_WORDS.split())
COLOURS = {
    "red": (1.0, 0.1, 0.1),
    "green": (0.1, 1.0, 0.1),
    "blue": (0.2, 0.3, 1.0),
    "white": (1.0, 1.0, 1.0),
    "yellow": (1.0, 1.0, 0.1),
    "pink": (1.0, 0.5, 0.8),
    "orange": (1.0, 0.6, 0.1),
    "grey": (0.6, 0.6, 0.6),
}
BACKGROUNDS = {
    "black": (0.0, 0.0, 0.0),
    "navy": (0.0, 0.0, 0.3),
    "brown": (0.3, 0.18, 0.08),
    "purple": (0.25, 0.0, 0.3),
}
SIZES = ("small", "large")
# Each template with the attributes it names: noun, colour, background, size.
TEMPLATES = (
    "{n}",
    "the {n}.",
    "a photo of the {n}.",
    "an image of the {n}.",
    "a drawing of the {n}.",
    "a picture of a {n}.",
    "the {n}, in {c}.",
    "a {c} {n}.",
    "a photo of a {c} {n}.",
    "a blurry picture of a {c} {n}.",
    "a {s} {n}.",
    "a {s} {c} {n}.",
    "a photo of a {s} {n}.",
    "a {c} {n} on a {b} background.",
    "a photo of the {n} on {b}.",
    "a {s} {c} {n} on {b}.",
)


@dataclass(frozen=True)
class Sign:
    """Something to draw and the ways to call it."""

    text: str
    nouns: tuple[str, ...]


DIGITS = tuple(Sign(str(i), (f"digit {name}", f"number {name}")) for i, name in enumerate(DIGIT_NAMES))
SIGNS = (
    DIGITS
    + tuple(Sign(c, (f"small letter {c}",)) for c in LETTERS)
    + tuple(Sign(c.upper(), (f"capital letter {c}",)) for c in LETTERS)
    + tuple(Sign(word, (f"word {word}",)) for word in WORDS)
)


def fonts() -> list[str]:
    """Paths of the text fonts that matplotlib ships, sorted (symbol and display faces left out)."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    wanted = ("DejaVu", "STIXGeneral", "cmr10", "cmb10", "cmss10", "cmtt10")
    skipped = ("Display", "NonUni")
    return sorted(
        str(path)
        for path in folder.glob("*.ttf")
        if any(w in path.name for w in wanted) and not any(s in path.name for s in skipped)
    )


def draw(rng: random.Random, text: str, faces: Sequence[str]) -> tuple[np.ndarray, bool]:
    """One grey mask ``[32, 32]`` uint8 of ``text`` (white on black), and whether it was drawn large."""
    canvas = 2 * SIZE
    image = Image.new("L", (canvas, canvas), 0)
    pen = ImageDraw.Draw(image)
    # The longer the text, the smaller it must be: three letters fill the width at a third of the size.
    points = rng.randint(38, 66)
    large = points >= 52
    font = ImageFont.truetype(rng.choice(faces), max(12, round(points / (1 + 0.55 * (len(text) - 1)))))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    x = (canvas - (right - left)) / 2 - left + rng.uniform(-5, 5)
    y = (canvas - (bottom - top)) / 2 - top + rng.uniform(-5, 5)
    pen.text((x, y), text, fill=255, font=font)
    thickness = rng.random()
    if thickness < 0.25:
        image = image.filter(ImageFilter.MaxFilter(3))
    elif thickness < 0.3:
        image = image.filter(ImageFilter.MaxFilter(5))
    elif thickness < 0.38 and len(text) == 1:
        image = image.filter(ImageFilter.MinFilter(3))
    slant = rng.uniform(-0.3, 0.3)
    image = image.rotate(rng.uniform(-15, 15), resample=Image.Resampling.BILINEAR).transform(
        (canvas, canvas),
        Image.Transform.AFFINE,
        (1, slant, -slant * canvas / 2, 0, 1, 0),
        resample=Image.Resampling.BILINEAR,
    )
    coarse = rng.choice((8, 10, 12, 16, 32)) if len(text) == 1 else rng.choice((16, 24, 32))
    image = image.resize((coarse, coarse), Image.Resampling.BOX)
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8), large


@dataclass(frozen=True)
class Masks:
    """Drawn signs: ``pixels [n, 32, 32]`` uint8, ``sign [n]`` index into SIGNS, ``large [n]`` 0 or 1."""

    pixels: Tensor
    sign: Tensor
    large: Tensor


def draw_many(n: int, seed: int, digit_share: float = 0.45, word_share: float = 0.15) -> Masks:
    """``n`` masks; a share of digits, a share of words, the rest letters. Equal seeds give equal masks."""
    rng, faces = random.Random(seed), fonts()
    letters = range(len(DIGITS), len(DIGITS) + 2 * len(LETTERS))
    words = range(letters.stop, len(SIGNS))
    pixels = np.zeros((n, SIZE, SIZE), np.uint8)
    sign, large = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for i in tqdm(range(n), desc="drawing", unit="image", disable=None):
        kind = rng.random()
        group = range(len(DIGITS)) if kind < digit_share else words if kind < digit_share + word_share else letters
        sign[i] = rng.choice(group)
        pixels[i], large[i] = draw(rng, SIGNS[sign[i]].text, faces)
    return Masks(torch.from_numpy(pixels), torch.from_numpy(sign), torch.from_numpy(large))


def warp(masks: Tensor, generator: torch.Generator, strength: float = 0.07) -> Tensor:
    """Random scale, shift and smooth displacement of ``[b, 1, 32, 32]`` masks."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    b = len(masks)
    theta = torch.eye(2, 3).repeat(b, 1, 1)
    scale = uniform(0.8, 1.25, b)
    theta[:, 0, 0] *= scale
    theta[:, 1, 1] *= scale * uniform(0.8, 1.2, b)
    theta[:, :, 2] = uniform(-0.15, 0.15, b, 2)
    grid = F.affine_grid(theta, list(masks.shape), align_corners=False)
    bend = torch.randn(b, 2, 5, 5, generator=generator)
    bend = F.interpolate(bend, size=SIZE, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(masks, grid + strength * bend, align_corners=False)


def colour(masks: Tensor, ink: Tensor, paper: Tensor, generator: torch.Generator, noise: float = 0.2) -> Tensor:
    """Images ``[b, 3, 32, 32]`` float32 in [0, 1] from masks ``[b, 1, 32, 32]`` and RGB ``[b, 3]`` colours."""
    b = len(masks)
    strength = torch.rand(b, 1, 1, 1, generator=generator) * 0.4 + 0.6
    images = masks * ink[:, :, None, None] * strength + (1 - masks) * paper[:, :, None, None]
    level = noise * torch.rand(b, 1, 1, 1, generator=generator)
    return (images + level * torch.randn(images.shape, generator=generator)).clamp(0, 1)


@dataclass(frozen=True)
class Batch:
    """Images with one caption each, and which of the captions are true of which image.

    ``images [b, 3, 32, 32]`` in [0, 1]; ``captions``: the u different texts; ``true [b, u]`` bool.
    """

    images: Tensor
    captions: list[str]
    true: Tensor


def sample_batch(masks: Masks, size: int, generator: torch.Generator) -> Batch:
    """``size`` captioned images. A caption is true of every image that has all the attributes it names."""

    def pick(high: int) -> Tensor:
        return torch.randint(high, (size,), generator=generator)

    rows = pick(len(masks.sign))
    ink, ground, template, form = pick(len(COLOURS)), pick(len(BACKGROUNDS)), pick(len(TEMPLATES)), pick(2)
    ground[torch.rand(size, generator=generator) < 0.5] = 0  # half of them on plain black
    sign, large = masks.sign[rows], masks.large[rows]
    inks, papers = torch.tensor(list(COLOURS.values())), torch.tensor(list(BACKGROUNDS.values()))
    images = warp(masks.pixels[rows, None].float() / 255, generator)
    images = colour(images, inks[ink], papers[ground], generator)

    facts = torch.stack([sign, ink, ground, large], 1)
    named: dict[str, list[int]] = {}  # by caption, the facts that it names; -1 for one that it leaves open
    for (s, c, b, z), t, f in zip(facts.tolist(), template.tolist(), form.tolist()):
        pattern, nouns = TEMPLATES[t], SIGNS[s].nouns
        text = pattern.format(n=nouns[f % len(nouns)], c=list(COLOURS)[c], b=list(BACKGROUNDS)[b], s=SIZES[z])
        marks = (("{n}", s), ("{c}", c), ("{b}", b), ("{s}", z))
        named[text] = [value if mark in pattern else -1 for mark, value in marks]
    wanted = torch.tensor(list(named.values()))
    true = ((wanted[None] == facts[:, None]) | (wanted[None] < 0)).all(-1)
    return Batch(images, list(named), true)


def all_captions() -> list[str]:
    """Every caption that can occur: the language DemoCLIP has read."""
    nouns = [noun for sign in SIGNS for noun in sign.nouns]
    every = itertools.product(TEMPLATES, nouns, COLOURS, BACKGROUNDS, SIZES)
    return sorted({pattern.format(n=n, c=c, b=b, s=s) for pattern, n, c, b, s in every})
