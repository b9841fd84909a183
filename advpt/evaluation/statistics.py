"""Intervals: how sure a measured accuracy, or a difference of two, is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % interval in percent of a proportion of ``correct`` among ``n`` (Wilson, 1927)."""
    if n == 0:
        return 0.0, 100.0
    p, z = correct / n, Z95
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if correct == 0 else 100 * max(0.0, centre - half)
    high = 100.0 if correct == n else 100 * min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class Difference:
    """Mean difference in points with its 95 % interval, and over how many seeds and images it was taken."""

    mean: float
    low: float
    high: float
    seeds: int
    images: int


def paired_bootstrap(a: np.ndarray, b: np.ndarray, *, draws: int = 10_000, seed: int = 0) -> Difference:
    """Difference ``a - b`` in accuracy points, with the interval of a bootstrap over images and over seeds.

    Args:
        a, b: ``[seeds, images]`` bool, whether each image was classified correctly, rows and columns paired.

    Seeds and images are drawn anew, independently, with replacement, ``draws`` times; the interval is the 2.5 to 97.5 %
    range of the resampled means.
    """
    if a.shape != b.shape or a.ndim != 2 or not a.size:
        raise ValueError(f"paired results must be [seeds, images] of one shape, got {a.shape} and {b.shape}")
    gain = a.astype(np.float64) - b.astype(np.float64)
    seeds, images = gain.shape
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for i in range(draws):
        per_image = gain[rng.integers(seeds, size=seeds)].mean(0)
        means[i] = per_image[rng.integers(images, size=images)].mean()
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return Difference(float(100 * gain.mean()), float(low), float(high), seeds, images)
