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

from steps.core.devices import torch_device
from steps.core.digest import seed as derive_seed
from steps.core.errors import UserError
from steps.core.runner import Output, progress, run
from steps.core.settings import Settings as BaseSettings
from steps.core.stores import read_table
from steps.neurons.pairs import Pair, load_pairs

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from steps.neurons.activations import Arithmetic
    from steps.neurons.moments import Moments

EXCESS_COLUMNS = [
    *("layer", "neuron", "max_corr", "mean_corr", "min_corr", "mean_baseline", "excess_corr"),
    *("excess_corr_draws", "universal", "privileged_basis", "constant"),
]
"""Columns of the excess table that later steps read."""

DRAW_COLUMNS = 1024
"""Small layers are rotated by several draws at once, up to this many columns, to keep products large."""


class Settings(BaseSettings):
    """When a neuron counts as universal."""

    threshold: float = Field(0.5, description="excess correlation above which the paper says universal")
    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate of the calibrated threshold")


def rotation(
    seed: int, model: str, layer: int, draw: int, width: int, dtype: Arithmetic = "float32"
) -> np.ndarray:
    """The random matrix ``[width, width]`` that rotates a layer of ``model`` in draw ``draw``."""
    import numpy as np

    key = derive_seed(seed, "neurons.baseline", model, layer, draw)
    generator = np.random.Generator(np.random.SFC64(key))
    return generator.standard_normal((width, width), dtype=dtype)


def rotated_maxima(
    rho: torch.Tensor,
    partner: Moments,
    layers: int,
    model: str,
    draws: int,
    seed: int,
    precision: Arithmetic,
    device: str = "cpu",
) -> np.ndarray:
    """Largest correlation of each neuron with any neuron of the rotated partner.

    Args:
        rho: correlations ``[rows, columns]`` with the partner, float64.
        partner: the partner's moments.
        layers: its number of layers.
        model: its name, from which with ``seed``, layer and draw the rotations derive.
        draws: number of rotations.
        seed: the configured seed.
        precision: of the products.
        device: where they are formed.

    Returns:
        float64 ``[draws, rows]``.
    """
    import numpy as np
    import torch

    dtype, where = getattr(torch, precision), torch_device(device)
    rows, width = len(rho), rho.shape[1] // layers
    together = max(1, DRAW_COLUMNS // width)
    best = torch.full((draws, rows), -torch.inf, dtype=torch.float64, device=where)
    work = [(layer, start) for layer in range(layers) for start in range(0, draws, together)]
    covariance, scaled = torch.empty(0), torch.empty((rows, width), dtype=dtype, device=where)
    for layer, start in progress(work, len(work), f"rotations of {model}"):
        if start == 0:
            columns = slice(layer * width, (layer + 1) * width)
            covariance = torch.from_numpy(partner.covariance(layer)).to(where, dtype)
            norm = torch.from_numpy(partner.norm[columns])
            for first in range(0, rows, DRAW_COLUMNS):
                part = slice(first, first + DRAW_COLUMNS)
                scaled[part] = rho[part, columns] * norm
        numbers = range(start, min(start + together, draws))
        turn = torch.from_numpy(
            np.concatenate([rotation(seed, model, layer, draw, width, precision) for draw in numbers])
        ).to(where)
        variance = torch.linalg.vecdot(turn @ covariance, turn).clamp_(min=0)
        scale = torch.where(variance > 0, variance.rsqrt(), torch.zeros_like(variance))
        for first in range(0, rows, DRAW_COLUMNS):
            part = slice(first, first + DRAW_COLUMNS)
            turned = (scaled[part] @ turn.T).mul_(scale).view(-1, len(numbers), width)
            here = best[start : start + len(numbers), part]
            torch.maximum(here, turned.amax(2).T.double(), out=here)
    return best.cpu().numpy()


def p_values(statistic: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(1 + number of draws at least as large) / (draws + 1) of ``statistic [n]`` in ``null [draws, n]``."""
    result: np.ndarray = (1 + (null >= statistic).sum(0)) / (len(null) + 1)
    return result


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values: those at most q are the discoveries at false discovery rate q."""
    import numpy as np

    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


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
    adjusted = benjamini_hochberg(p_values(mean, null))
    columns = {
        "layer": (number // pairs[0].width[0]).astype("int32"),
        "neuron": (number % pairs[0].width[0]).astype("int32"),
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
        "p_value": p_values(mean, null),
        "adjusted_p_value": adjusted,
        "privileged_basis": adjusted <= settings.q,
        "constant": pairs[0].row_constant.astype(bool),
    }
    for pair in pairs:
        index = pair.row_top_index[:, 0]
        columns[f"max_corr[{pair.b}]"] = pair.row_top_value[:, 0]
        columns[f"layer[{pair.b}]"] = index // pair.width[1]
        columns[f"neuron[{pair.b}]"] = index % pair.width[1]
    return pd.DataFrame(columns)


def read_excess(path: Path, pairs: list[Pair]) -> pd.DataFrame:
    """Read the table that :func:`main` wrote of ``pairs``.

    Raises:
        UserError: the file is damaged or something else, or was made from other correlations.
    """
    import numpy as np

    names = [f"max_corr[{pair.b}]" for pair in pairs]
    table = read_table(path, [*EXCESS_COLUMNS, *names]).to_pandas()
    largest = [pair.row_top_value[:, 0] for pair in pairs]
    if not all(np.array_equal(table[n], values) for n, values in zip(names, largest, strict=True)):
        raise UserError(
            f"{path}: not made from the correlations of {pairs[0].a} as they are now;"
            " delete it and run snakemake again"
        )
    whole: pd.DataFrame = read_table(path).to_pandas()
    return whole


def require_one_reference(pairs: list[Pair]) -> None:
    """Refuse pairs of several reference models.

    Raises:
        UserError: their first models differ.
    """
    references = sorted({pair.a for pair in pairs})
    if len(references) != 1:
        raise UserError(f"--correlations: files of reference models {references}, expected one")


def main(correlations: list[Path], settings: Settings, out: Output) -> None:
    """Write the table of the reference model."""
    pairs = load_pairs(correlations)
    require_one_reference(pairs)
    excess_table(pairs, settings).to_parquet(out, index=False, write_page_checksum=True)


if __name__ == "__main__":
    run(main)
