"""P-values, false discovery rates, moments and intervals against SciPy and written-out formulas."""

from __future__ import annotations

import math
from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.core import statistics


def test_p_values_count_draws_at_least_as_large() -> None:
    null = np.array([[0.1, 0.5], [0.2, 0.5], [0.3, 0.5]])
    assert statistics.p_values(np.array([0.2, 0.6]), null).tolist() == [3 / 4, 1 / 4]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(hnp.arrays(float, st.integers(0, 40), elements=st.sampled_from([k / 20 for k in range(1, 21)])))
def test_adjusted_p_values_are_those_of_scipy_without_what_was_not_tested(p: np.ndarray) -> None:
    expected = scipy.stats.false_discovery_control(p)
    np.testing.assert_array_equal(statistics.adjusted_p_values(p), expected)
    untested = np.concatenate([[np.nan], p, [np.nan, np.nan]])
    found = statistics.adjusted_p_values(untested)
    np.testing.assert_array_equal(found, np.concatenate([[np.nan], expected, [np.nan, np.nan]]))


def exact_discoveries(counts: list[int], draws: int, q: Fraction) -> list[bool]:
    """Benjamini and Hochberg in whole numbers: p-values are ``counts`` over ``draws + 1``."""
    order = sorted(range(len(counts)), key=lambda place: counts[place])
    scaled = [Fraction(counts[place] * len(counts), (draws + 1) * (k + 1)) for k, place in enumerate(order)]
    last = max((k for k, value in enumerate(scaled) if value <= q), default=-1)
    return [order.index(place) <= last for place in range(len(counts))]


@pytest.mark.parametrize(
    ("tests", "counts", "draws", "q"),
    [
        (3072, [1] * 3072, 19, "0.05"),  # the largest p-value that passes is q itself
        (7, [3] * 3, 699, "0.01"),  # SciPy's own adjusted p-value is 0.010000000000000002
        (14, [3] * 6, 699, "0.01"),
        (6, [1, 2, 3], 59, "0.1"),
        (6, [1, 2, 4], 59, "0.1"),
    ],
)
def test_a_p_value_on_the_border_passes(tests: int, counts: list[int], draws: int, q: str) -> None:
    whole = counts + [draws + 1] * (tests - len(counts))
    adjusted = statistics.adjusted_p_values(np.array(whole) / (draws + 1))
    found = statistics.discovered(adjusted, float(q))
    assert found.tolist() == exact_discoveries(whole, draws, Fraction(q))
    assert found.any()


def test_every_number_of_tests_passes_at_the_border() -> None:
    """Multiplied by the number of tests and divided by it again, 0.05 is too large for 301 of 5,000."""
    for tests in range(1, 5001, 7):
        assert statistics.discovered(statistics.adjusted_p_values(np.full(tests, 0.05)), 0.05).all()


def test_what_is_above_the_rate_or_was_not_tested_is_no_discovery() -> None:
    found = statistics.discovered(np.array([0.05 + 1e-9, np.nan, 0.05, 0.0]), 0.05)
    assert found.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("q", "draws"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.03, 33), (0.2, 4), (0.001, 999)]
)
def test_fewest_draws_whose_smallest_p_value_passes(q: float, draws: int) -> None:
    assert statistics.fewest_draws(q) == draws
    assert Fraction(1, draws + 1) <= Fraction(str(q)) < Fraction(1, draws)


@pytest.mark.parametrize(
    ("share", "count", "expected"), [(0.28, 25, 7), (0.07, 100, 7), (0.25, 10, 3), (1.0, 7, 7)]
)
def test_shares_are_the_decimal_numbers_that_were_written(share: float, count: int, expected: int) -> None:
    """In floating point, the first two products lie a little above 7."""
    assert math.ceil(statistics.exact(share) * count) == expected


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_power_moments_of_a_known_sample(shift: float) -> None:
    values = np.random.default_rng(1).gamma(2.0, size=1000)
    shifted = values - shift
    powers = np.stack([(shifted**k).sum() for k in range(1, 5)])[:, None]
    found = statistics.power_moments(powers, 1000, shift)
    centred = values - values.mean()
    assert found["mean"][0] == pytest.approx(values.mean())
    assert found["var"][0] == pytest.approx(values.var(), rel=1e-6)
    assert found["skew"][0] == pytest.approx(
        (centred**3).mean() / values.std() ** 3, rel=1e-2 if shift else 1e-9
    )


def test_weighted_moments_are_those_of_the_repeated_values() -> None:
    counts = np.array([[3, 1, 4, 2], [0, 10, 0, 0]])
    values = np.array([-1.0, 0.5, 2.0, 7.0])
    found = statistics.weighted_moments(values, counts / counts.sum(1, keepdims=True))
    whole = np.repeat(values, counts[0])
    expected = [whole.mean(), whole.var(), scipy.stats.skew(whole), scipy.stats.kurtosis(whole, fisher=False)]
    np.testing.assert_allclose([found[name][0] for name in ("mean", "var", "skew", "kurt")], expected)
    assert (found["mean"][1], found["var"][1]) == (0.5, 0)
    assert np.isnan([found["skew"][1], found["kurt"][1]]).all()


def test_row_moments_are_those_of_scipy() -> None:
    rows = np.random.default_rng(3).gamma(2.0, size=(4, 50))
    rows[2] = 1.5
    found = statistics.row_moments(torch.from_numpy(rows.copy()))
    varying = [0, 1, 3]
    np.testing.assert_allclose(found["mean"], rows.mean(1))
    np.testing.assert_allclose(found["var"], rows.var(1), atol=1e-30)
    np.testing.assert_allclose(found["skew"][varying], scipy.stats.skew(rows[varying], axis=1))
    np.testing.assert_allclose(
        found["kurt"][varying], scipy.stats.kurtosis(rows[varying], axis=1, fisher=False)
    )
    assert found["skew"][2].isnan()
    assert found["kurt"][2].isnan()


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    """Of 40 values nearly so (percentile intervals are a little narrow); of 3, some 70 of 100 times."""
    chance = np.random.default_rng(0)

    def covered(count: int) -> float:
        found = [
            statistics.bootstrap_interval(chance.normal(2, 1, count), seed, draws=500) for seed in range(1000)
        ]
        return float(np.mean([one.low <= 2 <= one.high for one in found]))

    assert 0.9 < covered(40) < 0.96
    assert 0.65 < covered(3) < 0.76


def test_an_interval_is_scipys() -> None:
    values = np.random.default_rng(1).exponential(size=25)
    ours = statistics.bootstrap_interval(values, 3, level=0.9)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    assert ours.mean == values.mean()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)
    assert ours == statistics.bootstrap_interval(values, 3, level=0.9)


def test_pairs_that_differ_alike_have_a_narrow_interval() -> None:
    first = np.array([1.0, 5.0, 9.0])
    found = statistics.paired_difference(first + 0.5, first, 1)
    assert found == (0.5, 0.5, 0.5)
    assert statistics.bootstrap_interval(first, 1).low < 3
