"""A plain two-pass streaming implementation against ours: five models, all ten pairs.

The plain way takes pair by pair. One pass over the data gives the correlations and their summaries. A
second pass rotates every layer of the partner's activations, for each draw, and correlates again. It
reads the same dumps through the same code, multiplies with the same kernel, and reads each block once
in a pass. Ours is ``neurons.correlate``, which gets the rotated correlations from covariances, and the
within-layer moments that it takes from every model once. ``neurons.moments`` makes further statistics in
the same pass (power sums, top examples), which neither side needs; the workflow runs it whole, so the
ratio to ours with all of it is an entry of its own.

The whole job is cut into five slices of one model and two pairs, measured in turn, so that every model
and every pair is measured once on either side.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import made
from benchmarks.correlating import correlate_pair, within_layers
from benchmarks.measure import Figure, ratio
from steps.core.tensors import read_tensors, write_tensors
from steps.neurons.activations.store import Activations, PostActivations, require_comparable
from steps.neurons.correlate import summarise
from steps.neurons.correlations.pearson import correlations
from steps.neurons.correlations.products import add_products
from steps.neurons.correlations.rotation import rotation

MODELS = 5
TOLERANCE = 1e-4
"""Largest difference between the two sides' maxima, in float32."""


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``neurons.two_pass_over_ours`` and ``neurons.two_pass_over_ours_20_draws``, also ``..._with_moments``.

    A draw costs us as much as a pass over ``d_mlp`` tokens or so, whatever their number, so 20 draws of
    few tokens need narrow layers to say what many tokens of wide ones would.
    """
    wide, narrow = (8, 256, 32_768), (10, 128, 28_672)
    for shape, draws, name, bound in (
        (wide, 1, "", "at least 1.7"),
        (narrow, 20, "_20_draws", "at least 12"),
    ):
        layers, d_mlp, tokens = (2, 32, 2048) if quick else shape
        ledgers = [
            made.activations(folder / f"{draws}-{seed}", layers, d_mlp, tokens, seed)
            for seed in range(MODELS)
        ]
        for ledger in ledgers:
            made.write_moments(ledger)  # what the first slices need of later models; not counted
        correlate_pair(*ledgers[:2])
        two_pass(*ledgers[:2], draws=1)  # both sides once, not counted
        seconds, difference = compare(ledgers, draws)
        print(f"two passes and ours, {draws} draws: maxima differ by at most {difference:.1e}")
        if difference > TOLERANCE:
            raise RuntimeError(f"the two sides differ by {difference}")
        for ours, addition, expected in (("ours", "", bound), ("ours, all moments", "_with_moments", "")):
            sides = {side: seconds[side] for side in ("two passes", ours)}
            yield ratio(f"neurons.two_pass_over_ours{name}{addition}", sides, expected)


def compare(ledgers: list[Path], draws: int) -> tuple[dict[str, list[float]], float]:
    """Measure both sides.

    Returns:
        Seconds of each side for every slice (ours also with all of ``neurons.moments``), and the largest
        difference between their maxima.
    """
    pairs = list(itertools.combinations(ledgers, 2))
    seconds: dict[str, list[float]] = {"two passes": [], "ours": [], "ours, all moments": []}
    difference = 0.0
    for number, ledger in enumerate(ledgers):
        mine = pairs[2 * number : 2 * number + 2]
        times = [time.perf_counter()]
        plain = [two_pass(a, b, draws) for a, b in mine]
        times.append(time.perf_counter())
        within_layers(ledger)
        times.append(time.perf_counter())
        ours = [correlate_pair(a, b, draws) for a, b in mine]
        times.append(time.perf_counter())
        made.write_moments(ledger)
        times.append(time.perf_counter())
        two_passes, within, correlating, moments = np.diff(times).tolist()
        seconds["two passes"].append(two_passes)
        seconds["ours"].append(within + correlating)
        seconds["ours, all moments"].append(moments + correlating)
        for one, other in zip(plain, ours, strict=True):
            first, second = read_tensors(one)[0], read_tensors(other)[0]
            for array in ("row_top_value", "column_top_value", "rotated_max"):
                difference = max(difference, float(np.abs(first[array] - second[array]).max()))
    return seconds, difference


class Sums:
    """Sums of one side's values and squares, float64."""

    def __init__(self, neurons: int) -> None:
        self.total = np.zeros(neurons)
        self.square = np.zeros(neurons)

    def add(self, values: np.ndarray) -> None:
        """Add a block ``[tokens, neurons]``."""
        self.total += values.sum(0, dtype=np.float64)
        self.square += np.einsum("ij,ij->j", values, values)

    def moments(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and root of the centred sum of squares."""
        mean = self.total / count
        return mean, np.sqrt(np.maximum(0, self.square - count * mean**2))


def two_pass(a: Path, b: Path, draws: int) -> Path:
    """Correlate two models and rotations of the second by two passes over the data."""
    import torch

    first, second = Activations(a), Activations(b)
    require_comparable(first, second)
    left, right = PostActivations(first, "float32"), PostActivations(second, "float32")
    rows, columns = Sums(first.neurons), Sums(second.neurons)
    total = torch.zeros((first.neurons, second.neurons), dtype=torch.float64)
    count = 0
    for k in range(first.blocks):
        x, y = left.block(k), right.block(k)
        count += len(x)
        rows.add(x.numpy())
        columns.add(y.numpy())
        add_products(total, x, y)
    row_moments = rows.moments(count)
    arrays = summarise(correlations(total, count, row_moments, columns.moments(count)), 0, 50)

    d_mlp = second.d_mlp
    turns = [
        [torch.from_numpy(rotation(0, second.name, layer, draw, d_mlp)).T for layer in range(second.layers)]
        for draw in range(draws)
    ]
    turned_sums = [Sums(second.neurons) for _ in range(draws)]
    totals = torch.zeros((draws, first.neurons, second.neurons), dtype=torch.float64)
    turned = torch.empty(first.block_tokens, second.neurons)
    for k in range(first.blocks):
        x, y = left.block(k), right.block(k)
        for draw in range(draws):
            z = turned[: len(y)]
            for layer, turn in enumerate(turns[draw]):
                inside = slice(layer * d_mlp, (layer + 1) * d_mlp)
                torch.mm(y[:, inside], turn, out=z[:, inside])
            turned_sums[draw].add(z.numpy())
            add_products(totals[draw], x, z)
    arrays["rotated_max"] = np.stack(
        [
            correlations(one, count, row_moments, sums.moments(count)).amax(1).numpy()
            for one, sums in zip(totals, turned_sums, strict=True)
        ]
    )
    out = a.parent / f"two-pass-{b.parent.name}.safetensors"
    write_tensors(out, arrays, {})
    return out
