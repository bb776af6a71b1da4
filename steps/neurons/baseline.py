"""The rotated baseline, excess correlation, and which neurons are universal (docs/neurons.md).

A partner's layer ``l`` is multiplied by a random matrix ``R_l`` (iid normal entries; the paper scales its
rows to unit norm, which no correlation notices). Without a privileged basis a neuron would correlate
with the rotated layer as well as with the layer itself. Since ``Cov(v, R_l v_l) = Cov(v, v_l) R_l^T``
and ``Var(R_l v_l) = diag(R_l C_l R_l^T)``, every draw follows from covariances that are already there,
with no second pass over the data (:func:`rotated_maxima`, called by ``neurons.correlate``).

As a step: reads the correlation files of the reference model with each of its partners. Writes one
parquet table, a row per neuron of the reference (:func:`excess_table`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.statistics import adjusted_p_values, discovered, p_values
from steps.core.stores import write_table
from steps.neurons.correlations.pairs import Pair, load_pairs, require_one_reference

if TYPE_CHECKING:
    import pandas as pd


class Settings(BaseSettings):
    """When a neuron counts as universal."""

    threshold: float = Field(
        0.5, description="excess correlation above which the paper says universal; never tuned"
    )
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate of the calibrated threshold")


def excess_table(pairs: list[Pair], settings: Settings) -> pd.DataFrame:
    """Excess correlation of every neuron of the reference, which is model a of all ``pairs``.

    Columns: ``layer``, ``neuron``; over partners of the largest correlation: ``max_corr``, ``mean_corr``,
    ``min_corr``, and for the baseline of draw 0: ``max_baseline``, ``mean_baseline``, ``min_baseline``;
    ``mean_baseline_draws`` (mean over draws too); ``excess_corr`` (with draw 0, as in the paper),
    ``excess_corr_draws`` (with the mean over draws); ``universal`` (``excess_corr`` above the threshold);
    ``p_value`` and ``adjusted_p_value`` of ``mean_corr`` against its draws; ``privileged_basis`` (adjusted
    at most q); ``constant``; per partner NAME ``max_corr[NAME]``, ``layer[NAME]``, ``neuron[NAME]``.
    """
    import numpy as np
    import pandas as pd

    largest = np.stack([pair.row_top_value[:, 0] for pair in pairs])
    null = np.mean([pair.rotated_max for pair in pairs], axis=0)
    first = np.stack([pair.rotated_max[0] for pair in pairs])
    number = np.arange(largest.shape[1])
    mean = largest.mean(0)
    p = p_values(mean, null)
    adjusted = adjusted_p_values(p)
    columns = {
        "layer": (number // pairs[0].d_mlp[0]).astype("int32"),
        "neuron": (number % pairs[0].d_mlp[0]).astype("int32"),
        "max_corr": largest.max(0),
        "mean_corr": mean,
        "min_corr": largest.min(0),
        "max_baseline": first.max(0),
        "mean_baseline": first.mean(0),
        "min_baseline": first.min(0),
        "mean_baseline_draws": null.mean(0),
        "excess_corr": mean - first.mean(0),
        "excess_corr_draws": mean - null.mean(0),
        "universal": mean - first.mean(0) > settings.threshold,
        "p_value": p,
        "adjusted_p_value": adjusted,
        "privileged_basis": discovered(adjusted, settings.q),
        "constant": pairs[0].row_constant.astype(bool),
    }
    for pair in pairs:
        index = pair.row_top_index[:, 0]
        columns[f"max_corr[{pair.b}]"] = pair.row_top_value[:, 0]
        columns[f"layer[{pair.b}]"] = index // pair.d_mlp[1]
        columns[f"neuron[{pair.b}]"] = index % pair.d_mlp[1]
    return pd.DataFrame(columns)


def main(correlations: list[Path], settings: Settings, out: Output) -> None:
    """Write the table of the reference model."""
    pairs = load_pairs(correlations)
    require_one_reference(pairs)
    write_table(excess_table(pairs, settings), out)


if __name__ == "__main__":
    run(main)
