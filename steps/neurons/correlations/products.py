"""Sums of products of neurons, over tiles of the neurons and ranges of the tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.errors import UserError
from steps.core.runner import progress
from steps.core.tensors import open_tensors
from steps.neurons.activations.store import Activations, PostActivations, Precision
from steps.neurons.correlations.pearson import row_chunks

if TYPE_CHECKING:
    import torch


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
            require_precision(path, facts["precision"], precision)
            blocks.append((facts["blocks"], path))
            count += int(file.get_tensor("count")[0])
            product = file.get_slice("product")
            for part in row_chunks(total):
                total[part] += torch.from_numpy(product[part])
    require_all_blocks(blocks, a.blocks)
    return count, total


def require_precision(path: Path, found: Precision, expected: Precision) -> None:
    if found != expected:
        raise UserError(
            f"{path}: summed in {found}, expected {expected};"
            " set neurons.precision, which holds for all steps, and delete it"
        )


GEMM_TILE = 512
"""Side of the part of a product that is computed at once: its float32 sums are added to the float64
totals while still in the cache, and it bounds the memory for them and inside the product's kernel."""


DEVICE_ROWS = 4096
"""Rows of a product that an accelerator computes at once, which bounds the memory of its float32 sums."""


STRIP = 128
"""Rows of a symmetric product that are computed at once, from the diagonal on: 0.7 of the whole's time."""


def add_products(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add ``a.T @ b`` to ``total`` (float64), computed in the precision of ``a`` and ``b``.

    Args:
        total: ``[n_a, n_b]``.
        a: ``[tokens, n_a]``.
        b: ``[tokens, n_b]``; where it is ``a`` itself, only the upper triangle is computed, in strips
            (see :func:`mirror`).
    """
    import torch

    if a.device.type != "cpu" or a.dtype.itemsize < 4:
        _add_whole_products(total, a, b)
        return
    symmetric = a is b
    rows, columns = (STRIP, b.shape[1]) if symmetric else (GEMM_TILE, GEMM_TILE)
    scratch, wide = (torch.empty(rows * min(columns, b.shape[1]), dtype=d) for d in (a.dtype, total.dtype))
    for i in range(0, a.shape[1], rows):
        left = a[:, i : i + rows].T
        for j in range(i if symmetric else 0, b.shape[1], columns):
            right = b[:, j : j + columns]
            shape = (left.shape[0], right.shape[1])
            out = torch.mm(left, right, out=scratch[: math.prod(shape)].view(shape))
            # Added as it is, every tile would leave its own float64 copy behind in the heap.
            total[i : i + rows, j : j + columns] += wide[: math.prod(shape)].view(shape).copy_(out)


def _add_whole_products(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """The same for accelerators and 16-bit values, whose products are accumulated in float32."""
    import torch

    half = a.dtype.itemsize < 4
    for i in range(0, a.shape[1], DEVICE_ROWS):
        left = a[:, i : i + DEVICE_ROWS].T
        if not half:
            total[i : i + DEVICE_ROWS] += left @ b
        elif a.device.type == "cpu":
            total[i : i + DEVICE_ROWS] += left.float() @ b.float()
        else:
            total[i : i + DEVICE_ROWS] += torch.mm(left, b, out_dtype=torch.float32)


def mirror(total: torch.Tensor) -> None:
    """Copy the upper triangle of a symmetric total to the lower one."""
    import torch

    total.copy_(torch.triu(total) + torch.triu(total, 1).T)


def range_blocks(blocks: int, ranges: int, index: int) -> range:
    """The blocks of token range ``index`` of ``ranges``: consecutive, as equal as can be.

    Raises:
        UserError: no such range, or fewer blocks than ranges.
    """
    if ranges > blocks:
        raise UserError(
            f"neurons.ranges: found {ranges}, expected at most {blocks}, the number of token blocks;"
            " lower it or neurons.dump.block_tokens"
        )
    if not 0 <= index < ranges:
        raise UserError(f"--index {index} of --ranges {ranges}: expected a range from 0 to --ranges minus 1")
    return range(blocks * index // ranges, blocks * (index + 1) // ranges)


def require_all_blocks(parts: list[tuple[list[int], Path]], blocks: int) -> None:
    """Refuse files of token ranges that do not cover ``blocks`` token blocks once.

    Args:
        parts: the first block of each file and the one after its last, and its path.
        blocks: of all tokens.

    Raises:
        UserError: a block is in no file or in several.
    """
    remedy = "give the file of every token range once"
    end = 0
    for (start, stop), path in sorted(parts):
        if start != end:
            raise UserError(f"{path}: begins at token block {start}, expected {end}; {remedy}")
        end = stop
    if end != blocks:
        raise UserError(f"{max(parts)[1]}: ends at token block {end}, expected {blocks}; {remedy}")
