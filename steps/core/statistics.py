"""Statistics that several chapters need: p-values, false discovery rates, moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def p_values(statistic: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(1 + number of draws at least as large) / (draws + 1) of ``statistic [n]`` in ``null [draws, n]``."""
    result: np.ndarray = (1 + (null >= statistic).sum(0)) / (len(null) + 1)
    return result


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values: those at most q are the discoveries at false discovery rate q."""
    import numpy as np

    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


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
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = np.where(var > 0, third / var**1.5, np.nan)
        kurt = np.where(var > 0, fourth / var**2, np.nan)
    return {"mean": m1 + shift, "var": var, "skew": skew, "kurt": kurt}
