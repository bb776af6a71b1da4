"""The neuron table and the top examples (dossier sections 4 and 5, what needs activations only).

Reads the moments of every model, the excess table of the reference and the cluster members. Writes two
parquet tables. ``neurons``: a row per neuron of every model, by model, layer and neuron, with

=============================  ==================================================================
column                         definition
=============================  ==================================================================
``mean var skew kurt``         population moments of the pre-activation over all tokens; kurtosis is
                               3 for a Gaussian; skew and kurt are null where the neuron is constant
``activation_frequency``       share of all tokens with a pre-activation above 0 (exact; the
                               paper's "sparsity")
``post_mean post_std``         of the post-activation over kept tokens
``cluster stability``          from ``neurons.clusters``; null where the neuron is in none
``corr_mean[NAME]`` ...        ``corr_mean corr_var corr_skew corr_kurt`` of the reference neuron's
                               correlations with all neurons of partner NAME
excess columns                 those of ``neurons.baseline``, for the reference; null for others
=============================  ==================================================================

``examples``: ``model``, ``layer``, ``neuron``, ``rank``, ``token`` (index into the tokens), ``row``,
``position``, ``value`` (post-activation), the largest of each neuron over kept tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.neurons.activations import Activations
from steps.neurons.moments import Moments
from steps.neurons.pairs import Pair, load_pairs

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


def power_moments(powers: np.ndarray, count: int, shift: np.ndarray | float = 0.0) -> dict[str, np.ndarray]:
    """Population mean, variance, skewness and (non-excess) kurtosis.

    Args:
        powers: ``[4, n]`` sums of powers 1 to 4 of ``count`` values minus ``shift``.
        count: number of values.
        shift: what was subtracted from each value.
    """
    import numpy as np

    m1, m2, m3, m4 = powers / count
    var = np.maximum(m2 - m1**2, 0)
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = np.where(var > 0, third / var**1.5, np.nan)
        kurt = np.where(var > 0, fourth / var**2, np.nan)
    return {"mean": m1 + shift, "var": var, "skew": skew, "kurt": kurt}


def model_table(name: str, width: int, moments: Moments) -> pd.DataFrame:
    """The columns that need one model only."""
    import numpy as np
    import pandas as pd

    arrays = moments.arrays
    number = np.arange(len(moments.mean))
    everything = int(arrays["count"][1])
    return pd.DataFrame(
        {
            "model": name,
            "layer": (number // width).astype("int32"),
            "neuron": (number % width).astype("int32"),
            **power_moments(arrays["pre_powers"], everything, arrays["pre_pilot"]),
            "activation_frequency": arrays["positive"] / everything,
            "post_mean": moments.mean + arrays["pilot"],
            "post_std": moments.norm / np.sqrt(moments.count),
        }
    )


def model_examples(name: str, width: int, context: int, moments: Moments) -> pd.DataFrame:
    """The top examples of one model's neurons."""
    import numpy as np
    import pandas as pd

    value, token = moments.arrays["top_value"], moments.arrays["top_token"]
    number, rank = (axis.reshape(-1) for axis in np.indices(value.shape))
    table = pd.DataFrame(
        {
            "model": name,
            "layer": (number // width).astype("int32"),
            "neuron": (number % width).astype("int32"),
            "rank": rank.astype("int32"),
            "token": token.reshape(-1),
            "row": (token // context).reshape(-1).astype("int32"),
            "position": (token % context).reshape(-1).astype("int32"),
            "value": value.reshape(-1),
        }
    )
    return table[table["token"] >= 0].reset_index(drop=True)


def partner_columns(pairs: list[Pair]) -> pd.DataFrame:
    """Moments of each reference neuron's correlations with all neurons of each partner."""
    import pandas as pd

    columns = {}
    for pair in pairs:
        for name, values in power_moments(pair.row_powers, pair.neurons[1]).items():
            columns[f"corr_{name}[{pair.b}]"] = values
    return pd.DataFrame(columns)


def main(
    activations: list[Path],
    moments: list[Path],
    correlations: list[Path],
    excess: Path,
    clusters: Path,
    neurons: Output,
    examples: Output,
) -> None:
    """Write both tables; ``moments`` lists the files of all ranges model by model, as ``activations``."""
    import pandas as pd

    pairs = load_pairs(correlations)
    if len({pair.a for pair in pairs}) != 1 or len(moments) % len(activations):
        raise UserError("--correlations: expected one reference model, and --moments as many files per model")
    ranges = len(moments) // len(activations)
    tables, tops = [], []
    for place, ledger in enumerate(activations):
        source = Activations(ledger)
        own = Moments(moments[place * ranges : (place + 1) * ranges])
        tables.append(model_table(source.name, source.width, own))
        tops.append(model_examples(source.name, source.width, source.context, own))
    table = pd.concat(tables, ignore_index=True)
    members = pd.read_parquet(clusters)[["model", "layer", "neuron", "cluster", "stability"]]
    members["cluster"] = members["cluster"].astype("Int32")
    table = table.merge(members, on=["model", "layer", "neuron"], how="left")
    reference = pd.concat([pd.read_parquet(excess), partner_columns(pairs)], axis=1)
    reference.insert(0, "model", pairs[0].a)
    for name in reference.select_dtypes("bool"):
        reference[name] = reference[name].astype("boolean")  # null, not False, for the other models
    whole = table.merge(reference, on=["model", "layer", "neuron"], how="left")
    for column in whole.columns:
        if column.startswith(("layer[", "neuron[")):
            whole[column] = whole[column].astype("Int32")
    whole.to_parquet(neurons, index=False)
    pd.concat(tops, ignore_index=True).to_parquet(examples, index=False)


if __name__ == "__main__":
    run(main)
