"""Intervals against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advpt.evaluation.statistics import paired_bootstrap, wilson


@given(st.integers(1, 5000), st.data())
def test_wilson_contains_the_estimate_and_solves_its_equation(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= 100 * k / n + 1e-9 and 100 * k / n - 1e-9 <= high <= 100
    for bound in (low / 100, high / 100):  # |p - bound| = z * sqrt(bound (1 - bound) / n) at both ends
        if 0 < bound < 1:
            z = abs(k / n - bound) / np.sqrt(bound * (1 - bound) / n)
            assert z == pytest.approx(1.959964, rel=1e-3)


def test_bootstrap_finds_a_difference_that_is_there_and_none_where_none_is():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 600)) < 0.7, rng.random((3, 600)) < 0.6
    d = paired_bootstrap(a, b)
    assert d.low > 0 and d.mean == pytest.approx(100 * (a.mean() - b.mean())) and (d.seeds, d.images) == (3, 600)
    same = paired_bootstrap(a, a)
    assert same.low == same.high == 0
    turned = paired_bootstrap(b, a)
    assert turned.mean == pytest.approx(-d.mean)
    assert paired_bootstrap(a, rng.random((3, 600)) < 0.7).low < 0


def test_bootstrap_counts_the_spread_of_seeds():
    """Seeds that disagree widen the interval, though every single seed has many images."""
    a = np.zeros((3, 1000), bool)
    a[0, :900], a[1, :100], a[2, :500] = True, True, True
    b = np.zeros((3, 1000), bool)
    assert paired_bootstrap(a, b).high - paired_bootstrap(a, b).low > 40


def test_bootstrap_interval_matches_the_normal_one_for_one_seed():
    rng = np.random.default_rng(1)
    a, b = rng.random((1, 2000)) < 0.8, rng.random((1, 2000)) < 0.7
    gain = a.astype(float) - b.astype(float)
    half = 100 * 1.96 * gain.std(ddof=1) / np.sqrt(2000)
    d = paired_bootstrap(a, b)
    assert d.high - d.mean == pytest.approx(half, rel=0.1) and d.mean - d.low == pytest.approx(half, rel=0.1)


def test_unpaired_results_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        paired_bootstrap(np.zeros((1, 3), bool), np.zeros((1, 4), bool))
