"""Correlations of a tile of one model's neurons with all neurons of another (docs/neurons.md).

Reads the activations of both models, or product tiles that ``neurons.products`` made of token ranges,
and the moments of both. Writes one safetensors file of summaries, never the matrix itself. For
``rows`` neurons of model a in the tile and ``columns`` neurons of model b:

====================  =======================  ====================================================
array                 shape, dtype             contents
====================  =======================  ====================================================
``row_top_value``     [rows, top], float64     largest correlations, descending
``row_top_index``     [rows, top], int32       the neurons of b that have them
``row_bottom_...``                             the same for the smallest, ascending
``row_histogram``     [rows, 101], int32       counts between the edges ``linspace(-1, 1, 100)``,
                                               the first and last column being below and above
``row_powers``        [4, rows], float64       sums of powers 1 to 4 of the row's correlations
``column_...``        [columns, ...]           the same for the partner's view, over this tile's rows
``rotated_max``       [draws, rows], float64   largest correlation with a rotated b, see ``baseline``
``row_constant``      [rows], uint8            1 where the neuron does not vary: its correlations are 0
``column_constant``   [columns], uint8         the same for b
====================  =======================  ====================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.devices import Device
from steps.core.digest import code_digest
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.tensors import write_tensors
from steps.neurons.activations.store import (
    Activations,
    PostActivations,
    Precision,
    arithmetic,
    require_comparable,
)
from steps.neurons.correlations.moments import Moments
from steps.neurons.correlations.pearson import correlations, row_chunks
from steps.neurons.correlations.products import merge_products, require_precision, sum_products, tile_rows
from steps.neurons.correlations.rotation import rotated_maxima

if TYPE_CHECKING:
    import numpy as np
    import torch


BINS = 101


class Settings(BaseSettings):
    """How correlations are formed and summarised."""

    precision: Precision = Field("float32", description="of products; totals are float64 in either case")
    top: int = Field(
        50, ge=1, le=100_000, description="largest and smallest partners kept per neuron (paper: 50)"
    )
    draws: int = Field(
        999,
        ge=1,
        le=1_000_000,
        description="random rotations of each partner; draw 0 is the paper's baseline",
    )
    seed: int = Field(0, ge=0, description="of the rotations")
    allow_self: bool = Field(False, description="let a model be compared with itself")
    device: Device = Field("cpu", description="where products and rotations are formed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


def summarise(rho: torch.Tensor, first: int, top: int) -> dict[str, np.ndarray]:
    """Summaries of the rows and columns of a matrix of correlations; see the module's docstring.

    Args:
        rho: ``[rows, columns]``, float64, from -1 to 1.
        first: number of the first row's neuron.
        top: how many extremes to keep.
    """
    return {**_summary("row", rho, 0, top), **_summary("column", rho.T, first, top)}


def _summary(view: str, rho: torch.Tensor, first: int, top: int) -> dict[str, np.ndarray]:
    """Summaries of the rows of ``rho``, whose columns are the neurons from number ``first`` on."""
    import numpy as np

    count, others = rho.shape
    listed = (count, min(top, others))
    extremes = {sign: (np.empty(listed, np.float64), np.empty(listed, np.int32)) for sign in (1, -1)}
    histogram = np.empty((count, BINS), np.int32)
    powers = np.empty((4, count))
    for here in row_chunks(rho):
        part = rho[here].contiguous().numpy()
        for sign, (value, index) in extremes.items():
            place = _largest(sign * part, listed[1])
            value[here] = np.take_along_axis(part, place, 1)
            index[here] = place + first
        # From -1 on, so the first bin stays empty; only 1 itself falls into the last one.
        bins = ((part + 1) * ((BINS - 2) / 2)).astype(np.int64)
        bins += BINS * np.arange(len(part))[:, None] + 1
        histogram[here] = np.bincount(bins.reshape(-1), minlength=BINS * len(part)).reshape(-1, BINS)
        power = part.copy()
        for order in range(4):
            powers[order, here] = power.sum(1)
            power *= part
    return {
        f"{view}_top_value": extremes[1][0],
        f"{view}_top_index": extremes[1][1],
        f"{view}_bottom_value": extremes[-1][0],
        f"{view}_bottom_index": extremes[-1][1],
        f"{view}_histogram": histogram,
        f"{view}_powers": powers,
    }


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Columns of the ``count`` largest of each row, descending; the lower column first where equal."""
    import numpy as np

    lowest = values.shape[1] - count
    place = np.argpartition(values, lowest, axis=1)[:, lowest:]
    largest = np.take_along_axis(values, place, 1)
    # Any of several that equal the last one may have been taken.
    tied = np.flatnonzero(np.count_nonzero(values >= largest.min(1, keepdims=True), axis=1) > count)
    place[tied] = np.argsort(-values[tied], axis=1, kind="stable")[:, :count]
    largest[tied] = np.take_along_axis(values[tied], place[tied], 1)
    return np.take_along_axis(place, np.lexsort((place, -largest), axis=1), 1)


def main(
    a: Path,
    b: Path,
    a_moments: list[Path],
    b_moments: list[Path],
    products: list[Path],
    tiles: int,
    tile: int,
    settings: Settings,
    out: Output,
) -> None:
    """Correlate row tile ``tile`` of ``tiles`` of model a with model b, and with rotations of b."""
    first, second = Activations(a), Activations(b)
    require_comparable(first, second, settings.allow_self)
    rows = tile_rows(first.neurons, tiles, tile)
    own, partner = Moments(a_moments, first), Moments(b_moments, second)
    require_precision(a_moments[0], own.precision, settings.precision)
    require_precision(b_moments[0], partner.precision, settings.precision)
    if products:
        count, total = merge_products(products, first, second, rows, settings.precision)
    else:
        precision, device = settings.precision, settings.device
        left = PostActivations(first, precision, rows, own.arrays["pilot"][rows], device)
        right = PostActivations(second, precision, pilot=partner.arrays["pilot"], device=device)
        count, total = sum_products(left, right, range(first.blocks))
        del left, right
    assert count == own.count == partner.count == first.kept  # the same blocks of the same tokens
    rho = correlations(total, count, (own.mean[rows], own.norm[rows]), (partner.mean, partner.norm))
    arrays = summarise(rho, rows.start, settings.top)
    arrays["rotated_max"] = rotated_maxima(
        rho,
        partner,
        second.layers,
        second.name,
        settings.draws,
        settings.seed,
        arithmetic(settings.precision),
        settings.device,
    )
    arrays["row_constant"] = (own.norm[rows] == 0).astype("uint8")
    arrays["column_constant"] = (partner.norm == 0).astype("uint8")
    facts = {
        "kind": "correlations",
        "a": first.name,
        "b": second.name,
        "activations": [first.store.fingerprint, second.store.fingerprint],
        "rows": [rows.start, rows.stop],
        "neurons": [first.neurons, second.neurons],
        "d_mlp": [first.d_mlp, second.d_mlp],
        "tokens": count,
        "settings": settings.model_dump(mode="json"),
        "code": code_digest("neurons.correlate"),
    }
    write_tensors(out, arrays, facts)


if __name__ == "__main__":
    run(main)
