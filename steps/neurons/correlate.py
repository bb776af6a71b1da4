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

from steps.core.digest import code_digest
from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.tensors import open_tensors, write_tensors
from steps.neurons.activations import (
    Activations,
    PostActivations,
    Precision,
    arithmetic,
    require_comparable,
)
from steps.neurons.baseline import rotated_maxima
from steps.neurons.moments import Moments, add_products, require_all_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch

BINS = 101
CHUNK = 2**17
"""Correlations that are summarised at once, which bounds the memory beside the matrix."""


class Settings(BaseSettings):
    """How correlations are formed and summarised."""

    precision: Precision = Field("float32", description="of products; totals are float64 in either case")
    top: int = Field(50, ge=1, le=100_000, description="largest and smallest partners kept per neuron")
    draws: int = Field(999, ge=1, le=1_000_000, description="random rotations of each partner")
    seed: int = Field(0, ge=0, description="of the rotations")
    allow_self: bool = Field(False, description="let a model be compared with itself")
    device: str = Field("cpu", description="where products and rotations are formed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


def tile_rows(neurons: int, tiles: int, tile: int) -> slice:
    """The neurons of row tile ``tile`` of ``tiles``.

    Raises:
        UserError: no such tile, or more tiles than neurons.
    """
    if tiles > neurons:
        raise UserError(f"neurons.tiles: found {tiles}, expected at most {neurons}, the neurons of a model")
    if not 0 <= tile < tiles:
        raise UserError(f"--tile {tile} of --tiles {tiles}: expected a tile from 0 to --tiles minus 1")
    return slice(neurons * tile // tiles, neurons * (tile + 1) // tiles)


def sum_products(a: PostActivations, b: PostActivations, blocks: range) -> tuple[int, torch.Tensor]:
    """Count of kept tokens and sums of products ``[a's neurons, b's neurons]``, float64, over ``blocks``."""
    import torch

    total = torch.zeros((a.count, b.count), dtype=torch.float64, device=a.device)
    count = 0
    for k in progress(blocks, len(blocks), f"{a.source.name} with {b.source.name}: blocks correlated"):
        values = a.block(k)
        count += len(values)
        add_products(total, values, b.block(k))
    return count, total.cpu()


def merge_products(
    files: list[Path], a: Activations, b: Activations, rows: slice, precision: Precision
) -> tuple[int, torch.Tensor]:
    """Count and sums of products of ``rows`` of model a, over all token ranges.

    Raises:
        UserError: a file is damaged or lacks, or was made from other activations, for other rows or in
            another precision.
    """
    import torch

    count, blocks = 0, []
    total = torch.zeros((rows.stop - rows.start, b.neurons), dtype=torch.float64)
    for path in files:
        with open_tensors(path, "products") as (file, facts):
            a.require_origin(path, facts["a"])
            b.require_origin(path, facts["b"])
            if facts["rows"] != [rows.start, rows.stop]:
                raise UserError(
                    f"{path}: of rows {facts['rows'][0]} to {facts['rows'][1]},"
                    f" expected {rows.start} to {rows.stop}; give the products of this tile"
                )
            _require_precision(path, facts["precision"], precision)
            blocks.append((facts["blocks"], path))
            count += int(file.get_tensor("count")[0])
            product = file.get_slice("product")
            for part in _chunks(total):
                total[part] += torch.from_numpy(product[part])
    require_all_blocks(blocks, a.blocks)
    return count, total


def _require_precision(path: Path, found: Precision, expected: Precision) -> None:
    if found != expected:
        raise UserError(
            f"{path}: summed in {found}, expected {expected};"
            " set neurons.precision, which holds for all steps, and delete it"
        )


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
    for part in _chunks(total):
        chunk = total[part]
        chunk.addr_(row_mean[part], column_mean, alpha=-count)
        chunk.mul_(row_scale[part, None]).mul_(column_scale).clamp_(-1, 1)
    return total


def _inverse(norm: np.ndarray) -> torch.Tensor:
    import torch

    values = torch.from_numpy(norm)
    return torch.where(values > 0, 1 / values, torch.zeros_like(values))


def _chunks(matrix: torch.Tensor) -> Iterator[slice]:
    """Runs of the rows of a matrix with about ``CHUNK`` entries each."""
    step = max(1, CHUNK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        yield slice(start, min(start + step, len(matrix)))


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
    for here in _chunks(rho):
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
    _require_precision(a_moments[0], own.precision, settings.precision)
    _require_precision(b_moments[0], partner.precision, settings.precision)
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
        "width": [first.width, second.width],
        "tokens": count,
        "settings": settings.model_dump(mode="json"),
        "code": code_digest("neurons.correlate"),
    }
    write_tensors(out, arrays, facts)


if __name__ == "__main__":
    run(main)
