"""What counting alone predicts: unigram and bigram losses on the held-out rows that models are judged on.

Reads packed rows (``train`` and ``held_out``: ``int32 [rows, context]``, BOS first where there is one). Like
a model, a counter sees a token of a row and predicts the next one; the first is seen but never predicted.

With c the counts of the train side, N their sum and V the vocabulary:

- unigram, add one: P(w) = (c(w) + 1) / (N + V);
- bigram, interpolated after Witten and Bell (1991): P(w | h) = (c(h w) + t(h) P(w)) / (c(h) + t(h)),
  where t(h) is the number of different tokens seen after h. It has nothing to tune and gives every
  pair some probability; an unseen h falls back to P(w).

Writes JSON: ``rows``, ``targets``, ``unigram_loss``, ``bigram_loss`` in nats per token, and ``versions`` of
libraries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.provenance import versions
from steps.core.runner import Output, run
from steps.core.stores import ArrayReader, Folder, write_json
from steps.language_models.learning.losses import Settings, held_out

if TYPE_CHECKING:
    import numpy as np


ROWS_AT_ONCE = 1 << 14


def blocks(rows: Folder) -> Iterator[np.ndarray]:
    """The train rows, some at a time."""
    reader = ArrayReader(rows, "train")
    for start in range(0, reader.shape[0], ROWS_AT_ONCE):
        yield reader.read(slice(start, start + ROWS_AT_ONCE))


def pair_keys(rows: np.ndarray, vocabulary: int) -> np.ndarray:
    """One number for each token and the one after it in its row, ``int64 [rows * (context - 1)]``."""
    import numpy as np

    wide = rows.astype(np.int64)
    return (wide[:, :-1] * vocabulary + wide[:, 1:]).ravel()


def count_pairs(parts: Iterable[np.ndarray], vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """The different pairs of neighbours and how often each was seen.

    Args:
        parts: rows of token ids, ``int [rows, context]``.
        vocabulary: number of tokens.

    Returns:
        sorted keys (see :func:`pair_keys`) and counts, ``int64 [pairs]`` each.
    """
    import numpy as np

    keys = counts = np.empty(0, np.int64)
    for part in parts:
        more, numbers = np.unique(pair_keys(part, vocabulary), return_counts=True)
        merged, places = np.unique(np.concatenate([keys, more]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, numbers]), len(merged)).astype(np.int64)
        keys = merged
    return keys, counts


def losses(keys: np.ndarray, counts: np.ndarray, rows: np.ndarray, vocabulary: int) -> tuple[float, float]:
    """Mean unigram and bigram loss in nats on held-out rows.

    Args:
        keys: of the pairs seen in training, sorted.
        counts: how often each was seen.
        rows: held-out rows, ``int [rows, context]``.
        vocabulary: number of tokens.
    """
    import numpy as np

    first, second = np.divmod(keys, vocabulary)
    seen = np.bincount(second, counts, vocabulary)
    unigram = (seen + 1) / (seen.sum() + vocabulary)
    after = np.bincount(first, counts, vocabulary)
    kinds = np.bincount(first, minlength=vocabulary).astype(float)

    wanted = pair_keys(rows, vocabulary)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    together = np.where(keys[place] == wanted, counts[place], 0)
    before, target = np.divmod(wanted, vocabulary)
    smoothed = together + kinds[before] * unigram[target]
    total = after[before] + kinds[before]
    bigram = np.where(total > 0, smoothed / np.maximum(total, 1), unigram[target])
    return float(-np.log(unigram[target]).mean()), float(-np.log(bigram).mean())


def main(rows: Path, settings: Settings, out: Output) -> None:
    """Count the train rows and judge the counts on the held-out rows."""
    packed = Folder(rows, "rows")
    vocabulary = packed.attributes["vocabulary"]
    keys, counts = count_pairs(blocks(packed), vocabulary)
    tokens, _ = held_out(packed, settings.rows)
    unigram, bigram = losses(keys, counts, tokens, vocabulary)
    write_json(
        out,
        {
            "rows": len(tokens),
            "targets": tokens.shape[0] * (tokens.shape[1] - 1),
            "unigram_loss": unigram,
            "bigram_loss": bigram,
            "versions": versions(("numpy",)),
        },
    )


if __name__ == "__main__":
    run(main)
