"""Intervals against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from advpt.evaluation.intervals import IMAGES_ONLY, Runs, accuracy_interval, difference, wilson


@given(st.integers(1, 5000), st.data())
def test_wilson_contains_the_estimate_and_solves_its_equation(n, data):
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= 100 * k / n + 1e-9 and 100 * k / n - 1e-9 <= high <= 100
    for bound in (low / 100, high / 100):  # |p - bound| = z * sqrt(bound (1 - bound) / n) at both ends
        if 0 < bound < 1:
            z = abs(k / n - bound) / np.sqrt(bound * (1 - bound) / n)
            assert z == pytest.approx(1.959964, rel=1e-3)


def runs(correct: np.ndarray, trained: bool = True, first: int = 1) -> Runs:
    by_seed = dict(enumerate(correct, start=first))
    return Runs({seed: 100 * float(row.mean()) for seed, row in by_seed.items()}, by_seed, correct.shape[1], trained)


def outcomes(rng: np.random.Generator, seeds: int, images: int, p: float) -> np.ndarray:
    return rng.random((seeds, images)) < p


def test_wilson_is_scipys():
    for k, n in ((0, 20), (3, 20), (20, 20), (517, 600)):
        found = binomtest(k, n).proportion_ci(0.95, "wilson")
        assert wilson(k, n) == pytest.approx((100 * found.low, 100 * found.high), abs=1e-9)


def test_one_run_has_wilsons_interval_and_says_that_it_is_of_the_images():
    y = np.arange(100) < 81
    for trained, scope in ((True, IMAGES_ONLY), (False, "images")):
        found = accuracy_interval(runs(y[None], trained))
        assert (found.mean, found.low, found.high) == pytest.approx((81, *wilson(81, 100)))
        assert found.scope == scope and found.images_only == trained and found.seeds == ((1,) if trained else ())


def test_seeds_without_images_have_students_interval():
    """Two seeds of which one gets all and one gets no image right: images have no variance of their own."""
    rng = np.random.default_rng(0)
    y = np.stack([rng.permutation(4000) < 400, rng.permutation(4000) < 800])
    found = accuracy_interval(runs(y))
    half = t.ppf(0.975, 1) * 10 / np.sqrt(2) / np.sqrt(2)
    assert found.mean == pytest.approx(15) and found.high - 15 == pytest.approx(half, rel=1e-3) and found.low == 0
    assert found.scope == "2 seeds and images"


def test_images_that_every_seed_gets_right_count_once():
    """Equal runs: ten of them are worth as much as one. Outcomes that differ from seed to seed are worth more."""
    y = np.arange(400) < 300
    one, ten = accuracy_interval(runs(y[None])), accuracy_interval(runs(np.stack([y] * 10)))
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))
    rng = np.random.default_rng(0)
    mixed = accuracy_interval(runs(np.stack([rng.permutation(y) for _ in range(10)])))
    assert mixed.high - mixed.low < 0.5 * (one.high - one.low)


def test_accuracies_alone_take_the_images_for_the_same_in_every_seed():
    y = outcomes(np.random.default_rng(0), 3, 200, 0.7)
    known = runs(y)
    without = accuracy_interval(Runs(known.accuracies, {}, 200))
    low, high = wilson(2 * without.mean, 200)
    half = t.ppf(0.975, 2) * np.std(list(known.accuracies.values()), ddof=1) / np.sqrt(3)
    assert without.high - without.mean == pytest.approx(np.hypot(half, high - without.mean))
    assert without.mean - without.low == pytest.approx(np.hypot(half, without.mean - low))
    assert without.high - without.low >= accuracy_interval(known).high - accuracy_interval(known).low


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_all_or_nothing_is_no_certainty(p):
    y = np.full((3, 200), bool(p))
    found, d = accuracy_interval(runs(y)), difference(runs(y), runs(y))
    assert (found.low, found.high) == pytest.approx(wilson(200 * p, 200))
    assert d.mean == 0 and d.high == -d.low == pytest.approx(100 * t.ppf(0.975, 199) / 200)


def test_a_difference_by_the_formula_of_the_documentation():
    rng = np.random.default_rng(3)
    y, z = outcomes(rng, 3, 50, 0.8), outcomes(rng, 3, 50, 0.5)
    gain = y.astype(float) - z
    left = gain - gain.mean(1, keepdims=True) - gain.mean(0) + gain.mean()
    noise = (left**2).sum() / (2 * 49) / 150
    images = max(1 / 50**2, gain.mean(0).var(ddof=1) / 50 - noise)
    half = 100 * np.sqrt(t.ppf(0.975, 2) ** 2 * gain.mean(1).var(ddof=1) / 3 + t.ppf(0.975, 49) ** 2 * images)
    d = difference(runs(y), runs(z))
    assert (d.mean, d.low, d.high) == pytest.approx((100 * gain.mean(), d.mean - half, d.mean + half))
    assert (d.seeds, d.images, d.scope) == ((3, 3), 50, "3 seeds and images")
    turned = difference(runs(z), runs(y))
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-d.mean, -d.high, -d.low))


def test_seeds_pair_where_they_are_the_same():
    """A seed that is easy for both moves both: the difference of pairs does not see it."""
    rng = np.random.default_rng(0)
    shared = np.array([0.5, 0.6, 0.7, 0.8, 0.9])[:, None]
    y, z = rng.random((5, 2000)) < shared, rng.random((5, 2000)) < shared - 0.1
    paired, apart = difference(runs(y), runs(z)), difference(runs(y), runs(z, first=6))
    assert paired.mean == pytest.approx(apart.mean) and apart.high - apart.low > 3 * (paired.high - paired.low)
    assert paired.low > 0 and not apart.significant
    more = difference(runs(y), runs(np.concatenate([z, z])))
    assert (
        more.seeds == (5, 10) and more.scope == "5 and 10 seeds and images" and more.mean == pytest.approx(apart.mean)
    )


def test_other_seeds_are_a_component_for_each_side():
    rng = np.random.default_rng(4)
    y, z = outcomes(rng, 3, 60, 0.8).astype(float), outcomes(rng, 5, 60, 0.5).astype(float)
    square, noise = 0.0, 0.0
    for x in (y, z):
        left = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
        noise += (left**2).sum() / ((len(x) - 1) * 59) / x.size
        square += t.ppf(0.975, len(x) - 1) ** 2 * x.mean(1).var(ddof=1) / len(x)
    images = max(1 / 60**2, (y.mean(0) - z.mean(0)).var(ddof=1) / 60 - noise)
    half = 100 * np.sqrt(square + t.ppf(0.975, 59) ** 2 * images)
    d = difference(runs(y > 0), runs(z > 0))
    assert d.high - d.mean == pytest.approx(half) and d.mean == pytest.approx(100 * (y.mean() - z.mean()))


def test_one_seed_is_never_significant_and_never_replicated():
    """A lucky run against fifteen: only the images are counted, and it says so; more seeds of the other change no
    word."""
    rng = np.random.default_rng(0)
    many, lucky = outcomes(rng, 15, 600, 0.5), outcomes(rng, 1, 600, 0.9)
    for one, other in ((lucky, many), (lucky, lucky), (lucky, many[:3])):
        d = difference(runs(one), runs(other))
        assert d.images_only and d.scope == IMAGES_ONLY and not d.significant
    d = difference(runs(lucky), runs(many))
    gain = lucky[0] - many.mean(0)
    half = 100 * t.ppf(0.975, 599) * np.sqrt(gain.var(ddof=1) / 600)
    assert d.high - d.mean == pytest.approx(half) and d.low > 0 and d.seeds == (1, 15)


@pytest.mark.parametrize(("seeds", "significant"), [(1, False), (2, False), (3, True), (10, True)])
def test_three_seeds_before_a_difference_is_significant(seeds, significant):
    rng = np.random.default_rng(0)
    one = np.tile(np.arange(1000) < 900, (seeds, 1))
    none = runs(np.arange(1000)[None] < 100, trained=False)
    assert difference(runs(one), none).significant == significant
    assert difference(none, runs(one)).significant == significant
    assert difference(runs(one), runs(outcomes(rng, 10, 1000, 0.1), first=20)).significant == significant


def test_a_method_without_training_stands_against_all_seeds():
    rng = np.random.default_rng(0)
    y, z = outcomes(rng, 5, 300, 0.8), outcomes(rng, 1, 300, 0.5)
    d = difference(runs(y), runs(z, trained=False))
    assert d.seeds == (5,) and d.scope == "5 seeds and images" and not d.images_only
    again = difference(runs(y), runs(np.concatenate([z, z]), trained=False))
    assert (again.low, again.high) == pytest.approx((d.low, d.high)), "running it again tells nothing new"
    noisy = outcomes(rng, 3, 300, 0.5)
    found = accuracy_interval(runs(noisy, trained=False))
    assert (found.low, found.high) == pytest.approx(wilson(300 * noisy.mean(), 300)), "its runs are no seeds"
    both = difference(runs(z, trained=False), runs(y[:1], trained=False))
    assert both.seeds == () and both.scope == "images"


def test_a_difference_of_other_images_is_refused():
    one = runs(np.zeros((1, 3), bool))
    for other in (runs(np.zeros((1, 4), bool)), Runs({1: 0.0}, {}, 3)):
        with pytest.raises(ValueError, match="outcomes of every seed on the same images"):
            difference(one, other)
