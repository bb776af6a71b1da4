"""Peak memory of correlating a pair, over what it has to hold: the statistics and one block."""

from __future__ import annotations

import gc
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks import made
from benchmarks.measure import RUNS, Figure, in_child
from steps.core.records import peak_of

BOUND = "at most 1.2"


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``neurons.correlate_memory_ratio``, the worse of two, and both by their number of neurons."""
    shapes = {2000: (2, 4096, RUNS), 20_000: (20, 1024, 1)}
    found = []
    for neurons, (layers, block, runs) in shapes.items():
        d_mlp = 32 if quick else neurons // layers
        ledgers = [
            made.activations(folder / f"{neurons}-{seed}", layers, d_mlp, 2 * block, seed, block)
            for seed in (1, 2)
        ]
        for ledger in ledgers:
            made.write_moments(ledger)
        names = {"a": str(ledgers[0]), "b": str(ledgers[1])}
        measured = [in_child("memory.peak", names) for _ in range(1 if quick else runs)]
        found.append(_figure(f"neurons.correlate_memory_ratio_{neurons}", measured))
    yield from found
    worse = max(found, key=lambda figure: figure.value)
    yield Figure("neurons.correlate_memory_ratio", *_fields(worse))


def _fields(figure: Figure) -> tuple[float, str, tuple[float, float], dict[str, float], int, str]:
    return figure.value, figure.unit, figure.spread, figure.sides, figure.runs, figure.bound


def _figure(name: str, measured: list[dict[str, int]]) -> Figure:
    values = [one["peak"] / one["needed"] for one in measured]
    sides = {side: statistics.median(one[side] for one in measured) for side in ("peak", "needed")}
    return Figure(
        name, statistics.median(values), "ratio", (min(values), max(values)), sides, len(values), BOUND
    )


def peak(a: str, b: str) -> dict[str, int]:
    """Bytes by which a process grows beyond its size after imports, and bytes it has to hold.

    The latter are the float64 sums of products of the two models, mean and norm of every neuron, and
    one block of float32 activations of each model.
    """
    import google_crc32c  # noqa: F401
    import numcodecs.blosc  # noqa: F401
    import safetensors.numpy  # noqa: F401
    import torch
    import torch.nn.functional
    import zarr  # noqa: F401

    from benchmarks.correlating import correlate_pair
    from steps.neurons.activations.store import Activations

    sources = [Activations(Path(ledger)) for ledger in (a, b)]
    rows, columns = (source.neurons for source in sources)
    block = max(int(sources[0].keep[sources[0].block_slice(k)].sum()) for k in range(sources[0].blocks))
    needed = 8 * rows * columns + 2 * 8 * (rows + columns) + 4 * block * (rows + columns)
    del sources
    for dtype in (torch.float32, torch.float64):  # the libraries behind it are loaded at the first product
        torch.mm(torch.ones((64, 64), dtype=dtype), torch.ones((64, 64), dtype=dtype))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to what is held now
    before = _peak()
    correlate_pair(Path(a), Path(b))
    return {"peak": _peak() - before, "needed": needed}


def _peak() -> int:
    peak = peak_of(os.getpid())
    if peak is None:
        raise RuntimeError("/proc/self/status: no VmHWM")
    return peak
