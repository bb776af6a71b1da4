"""Pearson correlations from sums of products."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch


CHUNK = 2**17
"""Correlations that are summarised at once, which bounds the memory needed besides the matrix."""


def correlations(
    total: torch.Tensor,
    count: int,
    rows: tuple[np.ndarray, np.ndarray],
    columns: tuple[np.ndarray, np.ndarray],
) -> torch.Tensor:
    """Turn sums of products into Pearson correlations, in place.

    Args:
        total: ``[rows, columns]`` sums of products of shifted values, float64.
        count: number of tokens.
        rows: mean of shifted values and root of the centred sum of squares of each row's neuron.
        columns: the same for the columns.

    A neuron that does not vary has correlation 0 with every other.
    """
    import torch

    row_mean, row_scale = torch.from_numpy(rows[0]), _inverse(rows[1])
    column_mean, column_scale = torch.from_numpy(columns[0]), _inverse(columns[1])
    for part in row_chunks(total):
        chunk = total[part]
        chunk.addr_(row_mean[part], column_mean, alpha=-count)
        chunk.mul_(row_scale[part, None]).mul_(column_scale).clamp_(-1, 1)
    return total


def _inverse(norm: np.ndarray) -> torch.Tensor:
    import torch

    values = torch.from_numpy(norm)
    return torch.where(values > 0, 1 / values, torch.zeros_like(values))


def row_chunks(matrix: torch.Tensor) -> Iterator[slice]:
    """Runs of the rows of a matrix with about ``CHUNK`` entries each."""
    step = max(1, CHUNK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        yield slice(start, min(start + step, len(matrix)))
