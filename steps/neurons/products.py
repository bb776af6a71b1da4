"""Sums of products of one token range, for a tile of one model's neurons and all of another's.

Reads the activations of both models. Writes one safetensors file: ``product`` (float64
``[rows, columns]``, sums over the range of shifted post-activations) and ``count`` (int64 ``[1]``, its
kept tokens). The shifts are the same in every range, so ``neurons.correlate`` merges ranges by addition.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from steps.core.devices import Device
from steps.core.digest import code_digest
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.tensors import write_tensors
from steps.neurons.activations.store import Activations, PostActivations, Precision, require_comparable
from steps.neurons.correlations.products import range_blocks, sum_products, tile_rows


class Settings(BaseSettings):
    """How products are formed."""

    precision: Precision = Field("float32", description="of products; totals are float64 in either case")
    allow_self: bool = Field(False, description="let a model be compared with itself")
    device: Device = Field("cpu", description="where products are formed")
    threads: int = Field(1, ge=1, description="arithmetic threads")


def main(
    a: Path, b: Path, tiles: int, tile: int, ranges: int, index: int, settings: Settings, out: Output
) -> None:
    """Sum the products of tile ``tile`` of ``tiles`` over token range ``index`` of ``ranges``."""
    import numpy as np

    first, second = Activations(a), Activations(b)
    require_comparable(first, second, settings.allow_self)
    rows, blocks = tile_rows(first.neurons, tiles, tile), range_blocks(first.blocks, ranges, index)
    left = PostActivations(first, settings.precision, rows, device=settings.device)
    right = PostActivations(second, settings.precision, device=settings.device)
    count, total = sum_products(left, right, blocks)
    facts = {
        "kind": "products",
        "a": first.store.fingerprint,
        "b": second.store.fingerprint,
        "rows": [rows.start, rows.stop],
        "blocks": [blocks.start, blocks.stop],
        "precision": settings.precision,
        "code": code_digest("neurons.products"),
    }
    write_tensors(out, {"product": total.numpy(), "count": np.array([count])}, facts)


if __name__ == "__main__":
    run(main)
