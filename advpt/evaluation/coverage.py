"""How often the 95 % intervals of :mod:`advpt.evaluation.intervals` hold the truth, by simulation.

``python -m advpt.evaluation.coverage`` prints the tables of ``docs/statistics.md``. A draw is a whole experiment:
images of random difficulty, seeds of random skill, crossed, and one Bernoulli outcome for each image and seed. What
must lie in the interval is the accuracy over all seeds and images, or the difference of two.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, ndtri, stdtrit
from tabulate import tabulate

from advpt.evaluation.intervals import UPPER, Interval, Runs, accuracy_interval, difference

IMAGES, DEVIATIONS, SEEDS = (200, 3600), (0, 1, 2, 4, 6), (2, 3, 5, 10)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


@dataclass(frozen=True)
class Scenario:
    """An experiment on two methods.

    Args:
        images: n. deviation: standard deviation over seeds of a trained method's accuracy, in points.
        seeds: of the first method and of the second; 0 stands for a method without training, which has one run.
        accuracies: of both in percent, over all seeds and images.
        shared: share of the seeds' variance that both methods have in common, seed by seed (the same few-shot images).
        difficulty: standard deviation in logits of what makes an image hard for both methods; own: for one alone.
    """

    images: int
    deviation: float
    seeds: tuple[int, int]
    accuracies: tuple[float, float] = (66.0, 60.0)
    shared: float = 0.0
    difficulty: float = 2.0
    own: float = 1.0

    @property
    def truth(self) -> float:
        """The difference in points."""
        return self.accuracies[0] - self.accuracies[1]


class Experiment:
    """Draws of a scenario."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.rng = scenario, np.random.default_rng(seed)
        spread = math.hypot(scenario.difficulty, scenario.own)
        self.skills = np.linspace(-12, 12, 2001)  # logits, and the accuracy over all images of who has them
        self.accuracy = expit(self.skills[:, None] + spread * NODES) @ WEIGHTS / WEIGHTS.sum()

    def draw(self) -> tuple[Runs, Runs]:
        """What both methods got right."""
        s = self.scenario
        hard = s.difficulty * self.rng.standard_normal(s.images, dtype=np.float32)
        common = self.rng.standard_normal(max(s.seeds))
        return self._runs(0, hard, common), self._runs(1, hard, common)

    def _runs(self, which: int, hard: np.ndarray, common: np.ndarray) -> Runs:
        s, rng = self.scenario, self.rng
        count = max(1, s.seeds[which])
        skill = math.sqrt(s.shared) * common[:count] + math.sqrt(1 - s.shared) * rng.standard_normal(count)
        deviation = s.deviation if s.seeds[which] else 0.0
        wanted = (s.accuracies[which] + deviation * skill) / 100
        skills = np.interp(wanted, self.accuracy, self.skills).astype(np.float32)
        logits = skills[:, None] + (hard + s.own * rng.standard_normal(s.images, dtype=np.float32))
        correct = rng.random(logits.shape, dtype=np.float32) * (1 + np.exp(-logits)) < 1
        accuracies = {seed: 100 * float(row.mean()) for seed, row in enumerate(correct)}
        return Runs(accuracies, dict(enumerate(correct)), s.images, bool(s.seeds[which]))


def coverage(scenario: Scenario, draws: int, seed: int = 0) -> tuple[float, float]:
    """Percent of so many experiments in which the interval of the difference holds the truth, and its mean half width
    in points."""
    experiment = Experiment(scenario, seed)
    return _covered((difference(*experiment.draw()) for _ in range(draws)), scenario.truth)


def accuracy_coverage(scenario: Scenario, draws: int, seed: int = 0) -> float:
    """Percent of so many experiments in which the interval of the first method's accuracy holds the truth."""
    experiment = Experiment(scenario, seed)
    return _covered((accuracy_interval(experiment.draw()[0]) for _ in range(draws)), scenario.accuracies[0])[0]


def _covered(intervals: Iterable[Interval], truth: float) -> tuple[float, float]:
    lows, highs = np.array([(interval.low, interval.high) for interval in intervals]).T
    return 100 * float(((lows <= truth) & (truth <= highs)).mean()), float((highs - lows).mean()) / 2


def combined(seeds: int, share: float, draws: int, seed: int = 0) -> tuple[float, float]:
    """Coverage in percent of two rules that make one interval of two normal variance components: that of this project,
    and Satterthwaite's degrees of freedom. ``share``: of the images in the variance, 0 to 1, which is known exactly."""
    rng = np.random.default_rng(seed)
    truth, degrees = rng.standard_normal(draws), seeds - 1
    v = (1 - share) * rng.chisquare(degrees, draws) / degrees
    ours = np.sqrt(stdtrit(degrees, UPPER) ** 2 * v + ndtri(UPPER) ** 2 * share)
    one = stdtrit((v + share) ** 2 / (v**2 / degrees + 1e-12), UPPER) * np.sqrt(v + share)
    return 100 * float((abs(truth) <= ours).mean()), 100 * float((abs(truth) <= one).mean())


EQUAL = tuple((s, s) for s in SEEDS)
AGAINST_NONE = tuple((s, 0) for s in SEEDS)
UNEQUAL = ((2, 3), (2, 10), (3, 5), (3, 10), (5, 10))
USUAL = Scenario(0, 0, (0, 0))
DIFFERENCES = (
    ("Two trained methods", EQUAL, USUAL),
    ("A trained method and zero-shot CLIP", AGAINST_NONE, replace(USUAL, accuracies=(66.0, 50.0))),
    ("Two trained methods that have half of their seeds' variance in common", EQUAL, replace(USUAL, shared=0.5)),
    (
        "Two trained methods, every image as hard for one as for the other",
        EQUAL,
        replace(USUAL, difficulty=1.0, own=0.0),
    ),
    ("Two trained methods with unequal numbers of seeds", UNEQUAL, USUAL),
)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.5, 0.8, 0.95)


def tables(draws: int, seed: int = 0) -> Iterator[str]:
    """The tables of the documentation, as Markdown, one after the other."""

    def of_difference(scenario: Scenario) -> str:
        percent, half = coverage(scenario, draws, seed)
        return f"{percent:.1f} (±{half:.1f})"

    def of_accuracy(scenario: Scenario) -> str:
        return f"{accuracy_coverage(scenario, draws, seed):.1f}"

    for title, pairs, scenario in DIFFERENCES:
        yield f"{title}: coverage in % (mean half width in points).\n\n{_table(scenario, pairs, of_difference)}"
    yield f"The mean accuracy of one method: coverage in %.\n\n{_table(USUAL, AGAINST_NONE, of_accuracy)}"
    rows = []
    for s in SEEDS:
        both = [combined(s, share, 100 * draws, seed) for share in SHARES]
        rows += [[s, "ours", *(f"{x:.1f}" for x, _ in both)], [s, "Satterthwaite", *(f"{x:.1f}" for _, x in both)]]
    heads = ["seeds", "rule", *(f"{100 * share:.0f} %" for share in SHARES)]
    yield f"Two rules, by the share of the images in the variance: coverage in %.\n\n{_markdown(heads, rows)}"


def _table(scenario: Scenario, pairs: Sequence[tuple[int, int]], cell: Callable[[Scenario], str]) -> str:
    """A cell for every number of images and deviation (rows) and for each pair of numbers of seeds (columns)."""
    rows = [
        [n, deviation, *(cell(replace(scenario, images=n, deviation=deviation, seeds=pair)) for pair in pairs)]
        for n, deviation in itertools.product(IMAGES, DEVIATIONS)
    ]
    names = [f"{a} seeds" if b in (0, a) else f"{a} and {b}" for a, b in pairs]
    return _markdown(["images", "seed deviation", *names], rows)


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return str(tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5_000, help="experiments for each cell")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for text in tables(args.draws, args.seed):
        sys.stdout.write(f"{text}\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
