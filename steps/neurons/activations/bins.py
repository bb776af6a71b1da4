"""Histograms of pre-activations: their bins, and reading what was counted.

The bins are those of the paper's authors: 256 edges from -10 to 15, a bin below and one above them; a bin
holds its upper edge. Edge 102 is exactly 0, so the bins after 102 count what is above 0 and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.errors import UserError
from steps.core.statistics import weighted_moments
from steps.core.stores import ArrayReader, Folder, read_array
from steps.neurons.activations.store import Activations

if TYPE_CHECKING:
    import numpy as np


BINS = 257


ZERO = 102
"""The edge, and the number of the bin below it, that is 0."""


def bin_edges() -> np.ndarray:
    """The 256 edges, float64; from whole numbers, since adding steps up would miss 0 by a little."""
    import numpy as np

    edges: np.ndarray = (25 * np.arange(256) - 2550) / 255
    return edges


def bin_numbers(values: np.ndarray) -> np.ndarray:
    """The bin of each value: the number of edges below it."""
    import numpy as np

    return np.searchsorted(bin_edges(), values, side="left")


def count_bins(numbers: np.ndarray) -> np.ndarray:
    """Histograms ``[neurons, 257]`` of bin numbers ``[tokens, neurons]``."""
    import numpy as np

    width = numbers.shape[1]
    places = numbers + BINS * np.arange(width)
    return np.bincount(places.reshape(-1), minlength=BINS * width).reshape(width, BINS)


def binned_moments(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Moments and "sparsity" as the paper's authors published them, from histograms ``[neurons, 257]``.

    Centres are mid-bins, of the outer bins those of one further step. ``hist_sparsity`` counts the bin
    that ends at 0 too, so it is the share above -0.098 and more than the share of activations above 0.
    Kurtosis is 3 for a Gaussian; skew and kurtosis are nan where all values lie in one bin.
    """
    import numpy as np

    edges = bin_edges()
    step = edges[1] - edges[0]
    centres = np.concatenate([[edges[0] - step / 2], edges[:-1] + step / 2, [edges[-1] + step / 2]])
    share = counts / counts.sum(1, keepdims=True)
    moments = {f"hist_{name}": values for name, values in weighted_moments(centres, share).items()}
    return {**moments, "hist_sparsity": share[:, ZERO:].sum(1)}


class Histograms:
    """The histograms of all models."""

    def __init__(self, ledger: Path) -> None:
        """Open the folder that ``ledger`` describes.

        Attributes: ``sources``, the labels, and ``tokens``, how many tokens each has.
        """
        self._folder = Folder(ledger, "histograms")
        self.sources: list[str] = self._folder.attributes["sources"]
        self.tokens: list[int] = self._folder.attributes["tokens"]

    def counts(self, model: str) -> np.ndarray:
        """Counts ``[sources, neurons, 257]`` of a model."""
        if model not in self._folder.attributes["models"]:
            raise UserError(
                f"{self._folder.path}: does not hold {model!r}; delete it and run snakemake again"
            )
        return read_array(self._folder, f"counts/{model}/tokens")


def block_sources(source: Activations, rows: Folder) -> np.ndarray:
    """The number of the source of every token of ``source``.

    Raises:
        UserError: the activations were not made from these rows.
    """
    import numpy as np

    split = source.store.made_from["settings"]["split"]
    count = len(source.tokens) // source.n_ctx
    labels = read_array(rows, f"{split}_source")[:count]
    reader = ArrayReader(rows, split)
    if not np.array_equal(reader.read(slice(0, count)).reshape(-1), source.tokens):
        raise UserError(
            f"{source.store.path}: not made from {rows.path} as it is now; delete it and run snakemake again"
        )
    return np.repeat(labels, source.n_ctx)
