"""Which neurons are intervened on: by their weights, at random, and random ones like given ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steps.interp.forward import Forward
from steps.interp.weights import processed_ends, processed_layer

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def entropy_candidates(table: pd.DataFrame, count: int, layers: int = 2) -> tuple[np.ndarray, bool]:
    """Rows of the ``count`` neurons that look most like entropy neurons by their weights.

    Those that ``neurons.roles`` calls ``entropy``, by p-value. Where there is none, what comes nearest: those
    with an ``entropy_rank``, in its order; where none has one, of the tenth of the last layers' neurons with
    the largest ``l2_penalty``, those with the smallest ``vocab_var``.

    Returns:
        The rows, and whether they are called.
    """
    import numpy as np

    called = np.flatnonzero(table["entropy"].to_numpy(dtype=bool))
    if len(called):
        p = table["null_space_p"].to_numpy(dtype=float)
        return called[np.argsort(p[called], kind="stable")][:count], True
    rank = table["entropy_rank"].to_numpy(dtype=float, na_value=np.nan)
    ranked = np.flatnonzero(~np.isnan(rank))
    if len(ranked):
        return ranked[np.argsort(rank[ranked], kind="stable")][:count], False
    last = np.flatnonzero(table["layer"] > table["layer"].max() - layers)
    l2, variance = table["l2_penalty"].to_numpy(), table["vocab_var"].to_numpy()
    large = last[l2[last] >= np.quantile(l2[last], 0.9)]
    return large[np.argsort(variance[large], kind="stable")][:count], False


def opposite(written: np.ndarray, last: np.ndarray, neuron: int) -> int:
    """Of the neurons ``last``, the one whose ``w_out`` points away from that of ``neuron`` most.

    Args:
        written: ``w_out`` of all neurons of the table, centred, ``[neurons, d_model]``.
        last: rows to choose from.
        neuron: row of the neuron.
    """
    import numpy as np

    unit = written / np.maximum(np.linalg.norm(written, axis=1, keepdims=True), 1e-30)
    return int(last[np.argmin(unit[last] @ unit[neuron])])


def control_neurons(
    table: pd.DataFrame, count: int, seed: int, without: np.ndarray, layers: int = 2
) -> np.ndarray:
    """Rows of random neurons of the last layers, the paper's controls of entropy neurons.

    ``l2_penalty`` at most the 90th percentile and ``vocab_var`` at least the 10th of the whole model.
    """
    import numpy as np

    l2, variance = table["l2_penalty"].to_numpy(), table["vocab_var"].to_numpy()
    possible = table["layer"].to_numpy() > table["layer"].max() - layers
    possible &= (l2 <= np.quantile(l2, 0.9)) & (variance >= np.quantile(variance, 0.1))
    possible[without] = False
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(possible))[:count]
    return np.sort(drawn)


def matched(
    chosen: np.ndarray, layer: np.ndarray, frequency: np.ndarray, norm: np.ndarray, count: int, seed: int
) -> list[tuple[int, int]]:
    """Pairs of a chosen neuron and another of its layer that fires as often and writes as much.

    Chosen neurons are taken in random order; each gets the nearest other neuron of its layer that is not
    taken yet, by activation frequency and output norm, each in standard deviations within the layer. Where
    a layer has no other neuron left, a chosen one stays without.

    Args:
        chosen: bool ``[neurons]``, never taken as the other one.
        layer: of each neuron.
        frequency: activation frequency.
        norm: of ``w_out``.
        count: pairs wanted.
        seed: of the order.
    """
    import numpy as np

    free = ~chosen
    pairs: list[tuple[int, int]] = []
    for number in np.random.default_rng(seed).permutation(np.flatnonzero(chosen)):
        if len(pairs) == count:
            break
        inside = layer == layer[number]
        others = np.flatnonzero(inside & free)
        if not len(others):
            continue
        apart = np.zeros(len(others))
        for values in (frequency, norm):
            apart += ((values[others] - values[number]) / max(float(values[inside].std()), 1e-30)) ** 2
        nearest = int(others[np.argmin(apart)])
        free[nearest] = False
        pairs.append((int(number), nearest))
    return sorted(pairs)


def suppressed_tokens(forward: Forward, layer: int, neurons: list[int], count: int) -> np.ndarray:
    """The ``count`` tokens whose logits neurons of a layer lower most, ``int64 [neurons, count]``."""
    import torch

    ends = processed_ends(forward.reader.ends(), forward.facts)
    own = processed_layer(forward.reader.layer(layer), forward.facts)
    effect = own.w_out[neurons] @ ends.w_u
    chosen = torch.sort(effect, dim=-1, stable=True).indices[:, :count]
    result: np.ndarray = chosen.cpu().numpy()
    return result


def vocabulary_cosines(forward: Forward, neurons: list[tuple[int, int]]) -> dict[tuple[int, int], np.ndarray]:
    """Cosines of ``w_out`` of neurons (layer and number) with the unembedding of each token.

    Returns:
        For each neuron ``float64 [vocabulary]``, 0 where there is no direction.
    """
    import torch

    unembedding = processed_ends(forward.reader.ends(), forward.facts).w_u
    found: dict[tuple[int, int], np.ndarray] = {}
    for layer in sorted({layer for layer, _ in neurons}):
        own = [neuron for at, neuron in neurons if at == layer]
        written = processed_layer(forward.reader.layer(layer), forward.facts).w_out[own]
        norms = written.norm(dim=1, keepdim=True) * unembedding.norm(dim=0)
        cosines = torch.where(norms > 0, written @ unembedding / norms, torch.zeros_like(norms))
        found |= {(layer, n): c.double().cpu().numpy() for n, c in zip(own, cosines, strict=True)}
    return found
