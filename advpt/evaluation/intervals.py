"""Intervals: how sure a measured accuracy, or a difference of two, is. The one statement of uncertainty of all tables.

The population is every seed that training could have had and every image that the test set could have had. The variance
of a mean over both has a component of seeds (with the noise of single decisions) and one of images; the half width of
the interval is ``sqrt(sum t^2 v)`` over the components ``v``, with Student's quantile of each (Banerjee, Sankhya 22,
1960, 357-358). ``docs/statistics.md`` has the formulas and the coverage (:mod:`advpt.evaluation.coverage`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri, stdtrit

UPPER = 0.975  # of a two-sided interval of 95 %
MIN_SEEDS = 3  # of each trained method, before a difference counts as significant
IMAGES_ONLY = "images only: one seed"
STATEMENT = (
    "95 % intervals are over seeds and images (variance components with Student's t, docs/statistics.md); zero-shot "
    f'CLIP is not trained and has no seeds. "{IMAGES_ONLY}" stands where a trained method has one: what another seed '
    "would give is not in that interval."
)


def wilson(correct: float, n: float) -> tuple[float, float]:
    """95 % interval in percent of a proportion of ``correct`` among ``n`` (Wilson, 1927). Both may be fractions, which
    ``scipy.stats.binomtest`` does not take: ``n`` is then the number of independent images that are worth as much."""
    if n == 0:
        return 0.0, 100.0
    p, z = correct / n, float(ndtri(UPPER))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if correct == 0 else 100 * max(0.0, centre - half)
    high = 100.0 if correct == n else 100 * min(1.0, centre + half)
    return low, high


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of one method on the same images, one for each training seed.

    Args:
        accuracies: by seed, in percent.
        correct: by seed ``[n]`` bool, which images were classified correctly; empty where that is not known.
        images: n. trained: whether the seed of a run changes its outcome; False for zero-shot CLIP.
    """

    accuracies: Mapping[int, float]
    correct: Mapping[int, np.ndarray] = field(repr=False)
    images: int
    trained: bool = True

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted(self.accuracies))

    @property
    def counted(self) -> bool:
        """Whether its seeds have a variance: of a method without training and of a single run they have none."""
        return self.trained and len(self.accuracies) > 1

    @property
    def mean(self) -> float:
        """Percent."""
        return float(np.mean([self.accuracies[seed] for seed in self.seeds]))

    def by_seed(self) -> np.ndarray:
        """``[seeds]`` float64 accuracies as fractions."""
        return np.array([self.accuracies[seed] for seed in self.seeds], dtype=np.float64) / 100

    def matrix(self) -> np.ndarray:
        """``[seeds, n]`` float64, 1 where an image was classified correctly."""
        return np.stack([self.correct[seed] for seed in self.seeds]).astype(np.float64)


@dataclass(frozen=True)
class Interval:
    """A mean in percent, or a difference of two in points, with its 95 % interval. ``seeds``: how many each trained
    method has; empty where nothing was trained."""

    mean: float
    low: float
    high: float
    seeds: tuple[int, ...]
    images: int

    @property
    def images_only(self) -> bool:
        """Whether a trained method has one seed, so that the interval is of the images alone."""
        return 1 in self.seeds

    @property
    def bounds(self) -> str:
        """``[85.1, 90.0]``, with words where one seed of a trained method is all there is."""
        return f"[{self.low:.1f}, {self.high:.1f}]" + (f" ({IMAGES_ONLY})" if self.images_only else "")

    @property
    def scope(self) -> str:
        """What the interval is over, in words."""
        if self.images_only:
            return IMAGES_ONLY
        counts = " and ".join(map(str, dict.fromkeys(self.seeds)))
        return f"{counts} seeds and images" if counts else "images"

    @property
    def significant(self) -> bool:
        """Whether a difference is one: 0 is outside, with at least :data:`MIN_SEEDS` seeds of each trained method."""
        return all(n >= MIN_SEEDS for n in self.seeds) and not self.low <= 0 <= self.high


def accuracy_interval(runs: Runs) -> Interval:
    """The mean accuracy of ``runs``: each side of the interval is the root of the sum of two squares (Zou and Donner,
    Statistics in Medicine 27, 2008). One is Student's of the seeds; the other Wilson's of as many independent images as
    have the estimated variance, between n, where all seeds get the same images right, and n times the seeds. Where
    ``correct`` is not known, n is what the images are worth.
    """
    mean, n, seeds = runs.mean, runs.images, len(runs.accuracies)
    half, worth = 0.0, float(n)
    if runs.counted:
        half = 100 * _quantile(seeds - 1) * math.sqrt(_variance(runs.by_seed()))
        if runs.correct and 0 < mean < 100:
            y = runs.matrix()
            v = _variance(y.mean(0)) - _noise(y)
            binomial = mean / 100 * (1 - mean / 100)
            worth = min(max(binomial / v, n), n * seeds) if v > 0 else float(n * seeds)
    low, high = wilson(mean / 100 * worth, worth)
    low, high = mean - math.hypot(half, mean - low), mean + math.hypot(half, high - mean)
    return Interval(mean, max(0.0, low), min(100.0, high), (seeds,) if runs.trained else (), n)


def difference(one: Runs, other: Runs) -> Interval:
    """The difference ``one - other`` in points, on the same images (else ValueError).

    Methods that were trained with the same seeds are paired by seed: runs of one seed share their few-shot images,
    their start and their order of batches, and a paired variance is right for whatever correlation that brings. Else
    each method's seeds are a component of their own. Where a trained method has one seed, seeds are not counted at all,
    and the interval says so (``images_only``). The variance of the images is not less than that of one image on which
    the two disagree (Agresti and Min, Statistics in Medicine 24, 2005), so that agreement on all images is not taken
    for certainty.
    """
    shapes = {seed_correct.shape for runs in (one, other) for seed_correct in runs.correct.values()}
    if len(shapes) != 1 or any(runs.correct.keys() != runs.accuracies.keys() for runs in (one, other)):
        raise ValueError(f"paired results need outcomes of every seed on the same images, got {sorted(shapes)}")
    y, z = one.matrix(), other.matrix()
    n = y.shape[1]
    counts = tuple(len(runs.accuracies) for runs in (one, other) if runs.trained)
    by_seed: list[tuple[np.ndarray, np.ndarray]] = []  # components of the seeds: accuracies, and what they are means of
    if one.counted and other.counted and one.seeds == other.seeds:
        by_seed = [(one.by_seed() - other.by_seed(), y - z)]
    elif 1 not in counts:
        by_seed = [(runs.by_seed(), matrix) for runs, matrix in ((one, y), (other, z)) if runs.counted]
    parts = [(len(accuracies) - 1, _variance(accuracies)) for accuracies, _ in by_seed]  # degrees of freedom, variance
    noise = sum(_noise(matrix) for _, matrix in by_seed)
    images = max(1 / n**2, _variance(y.mean(0) - z.mean(0)) - noise)
    parts.append((max(1, n - 1), images))
    half = 100 * math.sqrt(sum(_quantile(degrees) ** 2 * v for degrees, v in parts))
    mean = one.mean - other.mean
    return Interval(mean, max(-100.0, mean - half), min(100.0, mean + half), counts, n)


def _quantile(degrees: float) -> float:
    return float(stdtrit(degrees, UPPER))


def _variance(values: np.ndarray) -> float:
    """Of the mean of independent ``values``."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _noise(y: np.ndarray) -> float:
    """What is left of the variance of the mean of ``y [seeds, n]`` beside effects of seeds and of images: interaction
    and single decisions. Both components hold it; it is counted once, with the seeds."""
    seeds, n = y.shape
    if seeds < 2 or n < 2:
        return 0.0
    rows, columns = y.mean(1), y.mean(0)
    left = float((y * y).sum() - n * (rows**2).sum() - seeds * (columns**2).sum() + y.size * y.mean() ** 2)
    return float(max(0.0, left) / ((seeds - 1) * (n - 1)) / y.size)
