"""The intervals hold what they promise: simulated experiments, seeds crossed with images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advpt.evaluation import coverage as module
from advpt.evaluation.coverage import Experiment, Scenario, accuracy_coverage, combined, coverage, tables
from advpt.evaluation.intervals import MIN_SEEDS

DRAWS = 1000
BOUNDS = {2: (94, 99), 3: (94, 99), 5: (94, 97), 10: (94, 97)}
SLACK = 3 * 100 * (0.95 * 0.05 / DRAWS) ** 0.5  # three standard errors of a coverage of 95 % that is simulated


@pytest.mark.parametrize("deviation", [0, 2, 6])
@pytest.mark.parametrize("seeds", BOUNDS)
@pytest.mark.parametrize("trained", [True, False])
def test_the_difference_of_the_populations_is_covered(seeds, deviation, trained):
    accuracies = (66.0, 60.0 if trained else 50.0)
    found, half = coverage(
        Scenario(200, deviation, (seeds, seeds if trained else 0), accuracies), DRAWS, seed=deviation
    )
    low, high = BOUNDS[seeds]
    assert low - SLACK < found < high + SLACK
    if deviation == 6 and seeds == 3 and trained:
        assert half > 0.8 * 4.303 * 6 * (2 / 3) ** 0.5, "seeds that matter are seen in the width"


@pytest.mark.parametrize("deviation", [0, 4])
@pytest.mark.parametrize("seeds", BOUNDS)
def test_the_accuracy_of_the_population_is_covered(seeds, deviation):
    low, high = BOUNDS[seeds]
    assert low - SLACK < accuracy_coverage(Scenario(200, deviation, (seeds, 0)), DRAWS) < high + SLACK


@pytest.mark.parametrize("shared", [0.5, 1.0])
def test_seeds_that_have_their_images_in_common(shared):
    found, half = coverage(Scenario(200, 6, (5, 5), shared=shared), DRAWS)
    assert 94 - SLACK < found < 97 + SLACK and half < coverage(Scenario(200, 6, (5, 5)), 100)[1]


def test_other_numbers_of_seeds_on_both_sides():
    assert 94 - SLACK < coverage(Scenario(200, 4, (3, 10)), DRAWS)[0] < 99 + SLACK


def test_an_experiment_is_what_its_scenario_says():
    scenario = Scenario(400, 5.0, (4, 0), (70.0, 55.0))
    experiment = Experiment(scenario, 1)
    draws = [experiment.draw() for _ in range(400)]
    trained = np.array([[one.accuracies[s] for s in one.seeds] for one, _ in draws])
    single = np.array([other.mean for _, other in draws])
    assert trained.mean() == pytest.approx(70, abs=1) and single.mean() == pytest.approx(55, abs=1)
    assert trained.std(axis=1, ddof=1).mean() == pytest.approx(5, abs=1)
    one, other = draws[0]
    assert one.trained and not other.trained and other.seeds == (0,) and scenario.truth == 15
    easy = np.mean([np.corrcoef(a.matrix().mean(0), b.matrix()[0])[0, 1] for a, b in draws])
    assert easy > 0.2, "images are hard for both"


def test_satterthwaites_rule_alone_would_cover_too_little():
    for seeds, below in ((2, 90), (3, 93.5)):
        ours, one = combined(seeds, 0.1, 50_000)
        assert 94.5 < ours < 99 and one < below


def test_the_documentation_has_the_table_and_says_how_many_seeds_bold_takes(monkeypatch):
    monkeypatch.setattr(module, "DEVIATIONS", (0,))
    monkeypatch.setattr(module, "IMAGES", (20,))
    shown = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")
    titles = [text.splitlines()[0] for text in tables(2)]
    assert len(titles) == 7 and all(title in shown for title in titles)
    assert f"at least {MIN_SEEDS} seeds" in shown and "python -m advpt.evaluation.coverage" in shown
