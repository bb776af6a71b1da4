"""How fast an accelerator correlates two models: ``python -m benchmarks --only device``.

Two GPT-2 models of the small size with random weights, recomputed for every block of tokens
(``source: model``), all neurons of the one with all of the other's (``tiles: 1``). The models run in
bfloat16, post-activations are rounded to float16, products are accumulated in float32.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import made
from benchmarks.measure import Figure, in_turn

DEVICE = "cuda"
PRECISION = "float16"
SMALL = {"layers": 12, "d_model": 768, "heads": 12, "n_ctx": 512}
RUNS = 5


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """Tokens per second, products as a share of the matrix peak, and the time over that of bare products.

    ``quick`` is the same on the processor, at a tiny size.
    """
    import torch

    from steps.neurons.activations.store import Activations, PostActivations
    from steps.neurons.correlations.products import add_products

    device = "cpu" if quick else DEVICE
    shape = {"layers": 2, "d_model": 16, "heads": 2, "n_ctx": 64} if quick else SMALL
    block, blocks, runs = (512, 2, 2) if quick else (32_768, 4, RUNS)
    ledgers = [
        made.computed_activations(folder / f"model-{seed}", shape, block * blocks, block, seed, device)
        for seed in (1, 2)
    ]
    first, second = map(Activations, ledgers)
    left = PostActivations(first, PRECISION, device=device)
    right = PostActivations(second, PRECISION, device=device)
    total = torch.zeros((left.count, right.count), dtype=torch.float64, device=device)
    kept = [int(first.keep[first.block_slice(k)].sum()) for k in range(blocks)]

    def ours() -> None:
        for k in range(blocks):
            add_products(total, left.block(k), right.block(k))

    a, b = left.block(0).clone(), right.block(0).clone()
    sums = torch.empty((left.count, right.count), dtype=a.dtype, device=device)

    def matmul() -> None:
        for count in kept:
            torch.mm(a[:count].T, b[:count], out=sums)

    side = 512 if quick else 8192
    square = [torch.randn((side, side), device=device).to(a.dtype) for _ in range(2)]
    times = 1 if quick else 20

    def peak() -> None:
        for _ in range(times):
            torch.mm(*square)

    def forward() -> None:
        for k in range(blocks):
            second._computed = None
            second.on_device(0, k, right.device)

    def clock() -> float:
        if device != "cpu":
            torch.cuda.synchronize()  # what was started has ended
        return time.perf_counter()

    sides = {"ours": ours, "matmul": matmul, "peak": peak, "forward": forward}
    measured = in_turn(sides, runs, clock=clock)
    tokens, flop = sum(kept), 2.0 * sum(kept) * left.count * right.count
    ratios = [x / y for x, y in zip(measured["ours"], measured["matmul"], strict=True)]
    rates = [tokens / x for x in measured["ours"]]
    shares = [
        (flop / x) / (2.0 * times * side**3 / y)
        for x, y in zip(measured["ours"], measured["peak"], strict=True)
    ]
    dumped = [block * blocks / x for x in measured["forward"]]
    medians = {name: statistics.median(seconds) for name, seconds in measured.items()}
    for name, unit, values, chosen in (
        ("neurons.device_products_over_matmul", "ratio", ratios, ("ours", "matmul")),
        ("neurons.device_products_tokens_per_second", "tokens/s", rates, ("ours",)),
        ("neurons.device_products_share_of_peak", "share", shares, ("ours", "peak")),
        ("neurons.device_activations_tokens_per_second", "tokens/s", dumped, ("forward",)),
    ):
        yield Figure(
            name,
            statistics.median(values),
            unit,
            (min(values), max(values)),
            {side: medians[side] for side in chosen},
            runs,
            device=device,
        )
