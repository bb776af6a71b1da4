"""Explaining all neurons by all features: against one dense product of labels, and pandas for each pair."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import RUNS, Figure, in_turn, ratio
from steps.neurons.explanations import features, labels

if TYPE_CHECKING:
    import torch

BLOCK = 4096
CONTEXT = 64
PAIRS = 40
"""How many pairs of a neuron and a feature pandas works on; its time for all is that times their number."""


def vocabulary(size: int) -> list[str]:
    """Texts of a vocabulary: BOS, signs, numbers, listed words and pieces of two and three letters."""
    lists = features.read_word_lists()["token_features"]
    words = [word for entry in lists if entry["match"] == "whole" for word in entry["words"][:8]]
    letters = "etaoinsrhldcumfpgwybvkxjqz"
    pieces = ["".join(pair) for pair in itertools.product(letters[:16], repeat=2)]
    plain = [
        *features.SYMBOLS,
        "$",
        "\n",
        "    ",
        *map(str, range(0, 40, 3)),
        "1999",
        *letters,
        *words,
        *pieces,
    ]
    texts = dict.fromkeys(["", *plain[:120], *(f" {text}" for text in plain), *plain])
    return list(texts)[:size]


def figures(folder: Path, quick: bool) -> Iterator[Figure]:
    """``neurons.dense_labels_over_ours`` and ``neurons.groupby_over_ours``.

    All sides find how much every feature, of the token and of the one before it, reduces the variance of
    every neuron, from the same float32 post-activations in memory, block by block. The dense product gets
    its label matrix ready-made. Pandas groups the values of one neuron by one label; it is measured on a
    sample of pairs in the same run, and its time for all pairs extrapolated linearly from that.
    """
    import pandas as pd
    import torch

    tokens, neurons, size = (2 * BLOCK, 64, 256) if quick else (24 * BLOCK, 512, 512)
    rng = np.random.default_rng(0)
    texts = vocabulary(size)
    frequency = 1 / np.arange(1, len(texts) + 1)
    ids = rng.choice(len(texts), tokens, p=frequency / frequency.sum())
    ids[::CONTEXT] = 0
    counts = np.bincount(ids, minlength=len(texts))
    own = features.join(
        [
            features.single_token("bos", 0, len(texts)),
            features.unigram_features(texts, counts, 1, 3e-4 * tokens),
            features.token_features(texts, features.read_word_lists()),
        ]
    )
    current = labels.by_token(ids, own)
    found = [current, labels.previous(current, CONTEXT)]
    torch.manual_seed(0)
    blocks = [torch.randn(BLOCK, neurons) for _ in range(tokens // BLOCK)]
    ready = [_dense(found, slice(start, start + BLOCK)) for start in range(0, tokens, BLOCK)]
    total = sum(block.double().sum(0) for block in blocks)
    centred = sum(block.double().square().sum(0) for block in blocks) - total**2 / tokens
    holds = torch.from_numpy(
        np.concatenate([each.counts() @ each.features.matrix for each in found])
    ).double()

    def ours() -> torch.Tensor:
        results = []
        for each in found:
            sums = torch.zeros((each.size, neurons), dtype=torch.float64)
            for number, block in enumerate(blocks):
                labels.add_by_code(sums, block, each.codes[number * BLOCK : (number + 1) * BLOCK])
            results.append(
                labels.squared_correlations(sums, each.counts(), each.features.matrix, total, centred)[0]
            )
        return torch.cat(results)

    both = torch.zeros((len(holds), neurons), dtype=torch.float64)
    part = torch.empty((len(holds), neurons))

    def dense() -> torch.Tensor:
        both.zero_()
        for label, block in zip(ready, blocks, strict=True):
            torch.mm(label.T, block, out=part)
            both.add_(part)
        spread = holds * (1 - holds / tokens)
        covariance = both - holds[:, None] * (total / tokens)
        return torch.nan_to_num(covariance**2 / (spread[:, None] * centred), posinf=0.0)

    pairs = [(int(rng.integers(len(holds))), int(rng.integers(neurons))) for _ in range(PAIRS)]
    columns = [torch.cat([block[:, neuron] for block in blocks]).numpy() for _, neuron in pairs]
    flags = [torch.cat([label[:, feature] for label in ready]).numpy() > 0 for feature, _ in pairs]

    def groupby() -> list[float]:
        return [_groupby(pd.Series(v), y) for v, y in zip(columns, flags, strict=True)]

    difference = float((ours() - dense()).abs().max())
    sample = torch.stack([ours()[pair] for pair in pairs]).numpy()
    from_pandas = float(np.abs(sample - np.nan_to_num(groupby())).max())
    print(f"variance reductions differ by at most {difference:.1e} (dense), {from_pandas:.1e} (pandas)")
    seconds = in_turn({"dense labels": dense, "ours": ours, "groupby": groupby}, 2 if quick else RUNS)
    sides = {name: seconds[name] for name in ("dense labels", "ours")}
    yield ratio("neurons.dense_labels_over_ours", sides, "at least 3")
    scale = len(holds) * neurons / PAIRS
    sides = {
        "groupby, extrapolated": [scale * value for value in seconds["groupby"]],
        "ours": seconds["ours"],
    }
    yield ratio("neurons.groupby_over_ours", sides, "at least 50")


def _dense(found: list[labels.Labelling], where: slice) -> torch.Tensor:
    """Labels of some tokens, float32 ``[tokens, features of all labellings]``."""
    import torch

    parts = [each.features.matrix[each.codes[where]] for each in found]
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))


def _groupby(value: object, label: np.ndarray) -> float:
    """Reduction in variance (population variances) by one label."""
    import pandas as pd

    assert isinstance(value, pd.Series)
    groups = value.groupby(label).agg(["size", "var"])
    within = (groups["var"] * (groups["size"] - 1)).sum()
    return float(1 - within / (value.var() * (len(value) - 1)))
