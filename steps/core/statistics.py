"""Statistics that several chapters need: p-values, false discovery rates, moments, intervals over seeds."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch


ROUNDING = 1e-12
"""Relative difference below which an adjusted p-value counts as equal to the rate that is asked for."""


def p_values(statistic: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(1 + number of draws at least as large) / (draws + 1) of ``statistic [n]`` in ``null [draws, n]``."""
    result: np.ndarray = (1 + (null >= statistic).sum(0)) / (len(null) + 1)
    return result


def adjusted_p_values(p: np.ndarray) -> np.ndarray:
    """P-values ``[n]`` adjusted for the false discovery rate (Benjamini and Hochberg, 1995).

    NaN stands for what was not tested: it stays NaN and does not count among the tests.
    """
    import numpy as np
    from scipy.stats import false_discovery_control

    p = np.asarray(p, float)
    tested = ~np.isnan(p)
    adjusted = np.full(len(p), np.nan)
    adjusted[tested] = false_discovery_control(p[tested])
    return adjusted


def discovered(adjusted: np.ndarray, q: float) -> np.ndarray:
    """Which tests are discoveries at false discovery rate ``q``: adjusted p-values at most ``q``.

    P-values from draws are fractions, which often adjust to ``q`` exactly; in floating point they may come
    out a few units in the last place above it, and pass all the same. NaN does not.
    """
    passed: np.ndarray = adjusted <= q * (1 + ROUNDING)
    return passed


def fewest_draws(q: float) -> int:
    """How many draws it takes for the smallest p-value, ``1 / (draws + 1)``, to be at most ``q``."""
    return math.ceil(1 / exact(q)) - 1


def exact(number: float) -> Fraction:
    """The decimal number that a setting says, of which a float is the nearest binary one.

    Shares of whole numbers are taken of it: ``0.28 * 25`` is 7.000000000000001 in floating point, and the
    next whole number 8.
    """
    return Fraction(repr(float(number)))


class Interval(NamedTuple):
    """A mean over seeds (or items) and the borders of its interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: np.ndarray, seed: int, draws: int = 10_000, level: float = 0.95) -> Interval:
    """The mean of ``values [n]`` with its percentile bootstrap interval (Efron, 1979).

    With few values it is too narrow: of three, it covers the mean in some 70 of 100 cases, not 95.

    Args:
        values: one per seed or item.
        seed: of the resamples.
        draws: how many resamples.
        level: share of the resampled means inside the interval.
    """
    import numpy as np

    values = np.asarray(values, float)
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    tails = (50 * (1 - level), 50 * (1 + level))
    low, high = np.percentile(values[chosen].mean(1), tails)
    return Interval(float(values.mean()), float(low), float(high))


def paired_difference(
    first: np.ndarray, second: np.ndarray, seed: int, draws: int = 10_000, level: float = 0.95
) -> Interval:
    """:func:`bootstrap_interval` of ``first [n]`` - ``second [n]``, which belong together one by one."""
    import numpy as np

    difference = np.subtract(first, second, dtype=float)
    return bootstrap_interval(difference, seed, draws, level)


def power_moments(powers: np.ndarray, count: int, shift: np.ndarray | float = 0.0) -> dict[str, np.ndarray]:
    """Population mean, variance, skewness and (non-excess) kurtosis.

    Args:
        powers: ``[4, n]`` sums of powers 1 to 4 of ``count`` values minus ``shift``.
        count: number of values.
        shift: what was subtracted from each value.
    """
    import numpy as np

    m1, m2, m3, m4 = powers / count
    var = np.maximum(m2 - m1**2, 0)
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return {"mean": m1 + shift, "var": var, **_shape(var, third, fourth, var > 0)}


def weighted_moments(values: np.ndarray, shares: np.ndarray) -> dict[str, np.ndarray]:
    """Population mean, variance, skewness and (non-excess) kurtosis of distributions over a few values.

    Args:
        values: ``[n]``, such as the centres of bins.
        shares: ``[rows, n]``, the share of each value; a row sums to 1.

    Returns:
        Moments ``[rows]``: where one value is all there is, variance 0, skewness and kurtosis NaN.
    """
    import numpy as np

    mean = shares @ values
    centred = values - mean[:, None]
    var, third, fourth = ((shares * centred**power).sum(1) for power in (2, 3, 4))
    varies = (shares > 0).sum(1) > 1
    return {"mean": mean, "var": np.where(varies, var, 0), **_shape(var, third, fourth, varies)}


def row_moments(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Population mean, variance, skewness and (non-excess) kurtosis of each row of a matrix ``[rows, n]``.

    In the precision of ``values``; skewness and kurtosis are NaN where a row is constant.
    """
    mean = values.mean(1)
    centred = values - mean[:, None]
    square = centred.square()
    var = square.mean(1)
    constant = var == 0
    skew = (square * centred).mean(1) / var.pow(1.5)
    kurt = square.square_().mean(1) / var.square()
    return {
        "mean": mean,
        "var": var,
        "skew": skew.masked_fill(constant, float("nan")),
        "kurt": kurt.masked_fill(constant, float("nan")),
    }


def _shape(
    var: np.ndarray, third: np.ndarray, fourth: np.ndarray, varies: np.ndarray
) -> dict[str, np.ndarray]:
    """Skewness and kurtosis from central moments, NaN where nothing varies."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        skew = np.where(varies, third / var**1.5, np.nan)
        kurt = np.where(varies, fourth / var**2, np.nan)
    return {"skew": skew, "kurt": kurt}
