"""Correlations of a tile of one model's neurons with all neurons of another (dossier section 4).

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
from steps.core.stores import read_tensors, write_tensors
from steps.neurons.activations import Activations, PostActivations, Precision, require_comparable
from steps.neurons.baseline import rotated_maxima
from steps.neurons.moments import Moments, add_products

if TYPE_CHECKING:
    import numpy as np
    import torch

BINS = 101
CHUNK = 256
"""Rows that are summarised at once, which bounds the memory beside the matrix."""


class Settings(BaseSettings):
    """How correlations are formed and summarised."""

    precision: Precision = Field("float32", description="of products; totals are float64 in either case")
    top: int = Field(50, ge=1, description="largest and smallest partners kept per neuron")
    draws: int = Field(999, ge=1, description="random rotations of each partner")
    seed: int = Field(0, ge=0, description="of the rotations")
    allow_self: bool = Field(False, description="let a model be compared with itself")
    threads: int = Field(1, ge=1, description="arithmetic threads")


def tile_rows(neurons: int, tiles: int, tile: int) -> slice:
    """The neurons of row tile ``tile`` of ``tiles``.

    Raises:
        UserError: more tiles than neurons.
    """
    if tiles > neurons:
        raise UserError(f"neurons.tiles: found {tiles}, expected at most {neurons}, the neurons of a model")
    return slice(neurons * tile // tiles, neurons * (tile + 1) // tiles)


def sum_products(a: PostActivations, b: PostActivations, blocks: range) -> tuple[int, torch.Tensor]:
    """Count of kept tokens and sums of products ``[a's neurons, b's neurons]``, float64, over ``blocks``."""
    import torch

    total = torch.zeros((a.count, b.count), dtype=torch.float64)
    count = 0
    for k in progress(blocks, len(blocks), f"{a.source.name} with {b.source.name}: blocks correlated"):
        values = a.block(k)
        count += len(values)
        add_products(total, values, b.block(k))
    return count, total


def merge_products(files: list[Path], a: Activations, b: Activations) -> tuple[int, torch.Tensor]:
    """Count and sums of products of all token ranges.

    Raises:
        UserError: a file is damaged or was made from other activations.
    """
    import torch

    count, total = 0, None
    for path in files:
        part, facts = read_tensors(path)
        a.require_origin(path, facts.get("a"))
        b.require_origin(path, facts.get("b"))
        count += int(part["count"][0])
        product = torch.from_numpy(part["product"])
        total = product if total is None else total.add_(product)
    assert total is not None
    return count, total


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
    for start in range(0, len(total), CHUNK):
        part = slice(start, start + CHUNK)
        chunk = total[part]
        chunk.addr_(row_mean[part], column_mean, alpha=-count)
        chunk.mul_(row_scale[part, None]).mul_(column_scale).clamp_(-1, 1)
    return total


def _inverse(norm: np.ndarray) -> torch.Tensor:
    import torch

    values = torch.from_numpy(norm)
    return torch.where(values > 0, 1 / values, torch.zeros_like(values))


def summarise(rho: torch.Tensor, first: int, top: int) -> dict[str, np.ndarray]:
    """Summaries of the rows and columns of a matrix of correlations; see the module's docstring.

    Args:
        rho: ``[rows, columns]``, float64.
        first: number of the first row's neuron.
        top: how many extremes to keep.
    """
    import torch

    rows, columns = rho.shape
    row = _Extremes(rows, columns, top)
    column = _Extremes(columns, rows, top)
    every = torch.arange(columns, dtype=torch.int32)
    for start in range(0, rows, CHUNK):
        part = rho[start : start + CHUNK]
        here = slice(start, start + len(part))
        bins = ((part + 1) * ((BINS - 2) / 2)).floor_().long().clamp_(-1, BINS - 2).add_(1)
        row.add(here, part, every, bins)
        numbers = torch.arange(first + start, first + start + len(part), dtype=torch.int32)
        column.add(slice(0, columns), part.T, numbers, bins.T)
    return {**row.arrays("row"), **column.arrays("column")}


def _largest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest of each row and their columns, the lower columns where values are equal."""
    largest, place = values.topk(count, dim=1)
    # topk takes any of several that equal the last one taken.
    tied = ((values >= largest[:, -1:]).sum(1) > count).nonzero()[:, 0]
    if len(tied):
        place[tied] = values[tied].argsort(dim=1, descending=True, stable=True)[:, :count]
    return largest, place


class _Extremes:
    """Running extremes, histogram and power sums of each of ``count`` neurons."""

    def __init__(self, count: int, others: int, top: int) -> None:
        import torch

        self.top = min(top, others)
        self.value = {
            sign: torch.full((count, self.top), -torch.inf, dtype=torch.float64) for sign in (1, -1)
        }
        self.index = {sign: torch.full((count, self.top), -1, dtype=torch.int32) for sign in (1, -1)}
        self.histogram = torch.zeros((count, BINS), dtype=torch.int32)
        self.powers = torch.zeros((4, count), dtype=torch.float64)

    def add(self, here: slice, part: torch.Tensor, numbers: torch.Tensor, bins: torch.Tensor) -> None:
        """Add correlations ``part [neurons here, others]`` with the others called ``numbers``."""
        import torch

        for sign in (1, -1):
            largest, place = _largest(part * sign, min(self.top, part.shape[1]))
            value = torch.cat([self.value[sign][here], largest], dim=1)
            index = torch.cat([self.index[sign][here], numbers[place]], dim=1)
            # Equal values by the lower neuron: stable sorts, the least important key first.
            order = index.argsort(dim=1, stable=True)
            order = order.gather(1, value.gather(1, order).argsort(dim=1, descending=True, stable=True))
            order = order[:, : self.top]
            self.value[sign][here] = value.gather(1, order)
            self.index[sign][here] = index.gather(1, order)
        self.histogram[here].scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.int32))
        power = part.clone()
        for order_ in range(4):
            self.powers[order_, here] += power.sum(1)
            power *= part

    def arrays(self, view: str) -> dict[str, np.ndarray]:
        return {
            f"{view}_top_value": self.value[1].numpy(),
            f"{view}_top_index": self.index[1].numpy(),
            f"{view}_bottom_value": -self.value[-1].numpy(),
            f"{view}_bottom_index": self.index[-1].numpy(),
            f"{view}_histogram": self.histogram.numpy(),
            f"{view}_powers": self.powers.numpy(),
        }


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
    if products:
        count, total = merge_products(products, first, second)
    else:
        left = PostActivations(first, settings.precision, rows)
        right = PostActivations(second, settings.precision)
        count, total = sum_products(left, right, range(first.blocks))
        del left, right
    own, partner = Moments(a_moments, first), Moments(b_moments, second)
    if not count == own.count == partner.count == first.kept:
        raise UserError(
            f"--products, --a-moments, --b-moments: of {count}, {own.count} and {partner.count} tokens,"
            f" expected {first.kept}; give the file of every token range once"
        )
    rho = correlations(total, count, (own.mean[rows], own.norm[rows]), (partner.mean, partner.norm))
    arrays = summarise(rho, rows.start, settings.top)
    arrays["rotated_max"] = rotated_maxima(
        rho, partner, second.layers, second.name, settings.draws, settings.seed, settings.precision
    )
    arrays["row_constant"] = (own.norm[rows] == 0).astype("uint8")
    arrays["column_constant"] = (partner.norm == 0).astype("uint8")
    facts = {
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
