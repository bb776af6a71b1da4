"""The neuron table and the top examples (docs/neurons.md).

Reads the moments and histograms of every model, the excess table of the reference, the cluster members
and tables of further columns. Writes two parquet tables. ``neurons``: a row per neuron of every model,
by model, layer and neuron, with

=============================  ==================================================================
column                         definition
=============================  ==================================================================
``mean var skew kurt``         population moments of the pre-activation over all tokens; kurtosis is
                               3 for a Gaussian; skew and kurt are null where the neuron is constant
``activation_frequency``       share of all tokens with a pre-activation above 0 (exact; the
                               paper's "sparsity")
``activation_frequency[X]``    the same within the tokens of source X; null where it has none
``hist_mean hist_var``         moments of the pre-activation as the paper's authors published them, from
``hist_skew hist_kurt``        histograms of 257 bins
``hist_sparsity``              their "sparsity": the share above -0.098, since one bin too many is counted
``post_mean post_std``         of the post-activation over kept tokens
``cluster stability``          from ``neurons.clusters``; null where the neuron is in none
``corr_mean[NAME]`` ...        ``corr_mean corr_var corr_skew corr_kurt`` of the neuron's correlations with
                               all neurons of model NAME, where they are known: those of the reference
                               with every partner, those of partners with the reference
``max_corr[NAME]``             the largest of them and the neuron of NAME that has it
``layer[NAME] neuron[NAME]``
excess columns                 the others of ``neurons.baseline``, for the reference; null for partners,
                               whose rotated baseline is not computed
further columns                those of the further tables, which are joined by model, layer and neuron
``percentile[METRIC]``         percentile rank within layer and model of the metrics of figure 3 that are
                               there; ties share their mean rank, and missing values have none
=============================  ==================================================================

``examples``: ``model``, ``layer``, ``neuron``, ``rank``, ``token_index`` (into the tokens), ``row``,
``position``, ``value`` (post-activation), the largest of each neuron over kept tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.statistics import power_moments
from steps.core.stores import read_table, require_rows, write_table
from steps.neurons.activations.bins import ZERO, Histograms, binned_moments
from steps.neurons.activations.store import open_all
from steps.neurons.correlations.moments import Moments
from steps.neurons.correlations.pairs import Pair, load_pairs, require_one_reference, require_sources
from steps.neurons.selection.tables import (
    KEYS,
    METRICS,
    neuron_keys,
    read_excess,
    read_members,
    require_histograms,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd


def model_table(name: str, d_mlp: int, moments: Moments) -> pd.DataFrame:
    """The columns that need one model only."""
    import numpy as np
    import pandas as pd

    arrays = moments.arrays
    number = np.arange(len(moments.mean))
    everything = int(arrays["count"][1])
    return pd.DataFrame(
        {
            "model": name,
            "layer": (number // d_mlp).astype("int32"),
            "neuron": (number % d_mlp).astype("int32"),
            **power_moments(arrays["pre_powers"], everything, arrays["pre_pilot"]),
            "activation_frequency": arrays["positive"] / everything,
            "post_mean": moments.mean + arrays["pilot"],
            "post_std": moments.norm / np.sqrt(moments.count),
        }
    )


def histogram_table(histograms: Histograms, name: str) -> pd.DataFrame:
    """The columns that come from one model's histograms."""
    import numpy as np
    import pandas as pd

    counts = histograms.counts(name)
    columns = binned_moments(counts.sum(0, dtype=np.int64))
    for source, tokens, part in zip(histograms.sources, histograms.tokens, counts, strict=True):
        positive = part[:, ZERO + 1 :].sum(1, dtype=np.int64)
        columns[f"activation_frequency[{source}]"] = positive / (tokens or np.nan)
    return pd.DataFrame(columns)


def percentiles(table: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Percentile rank, from above 0 to 100, of each metric among the neurons of its layer and model."""
    import pandas as pd

    ranks = table.groupby(["model", "layer"], sort=False)[list(metrics)].rank(pct=True)
    return pd.DataFrame({f"percentile[{name}]": 100 * ranks[name].astype(float) for name in ranks})


def model_examples(name: str, d_mlp: int, context: int, moments: Moments) -> pd.DataFrame:
    """The top examples of one model's neurons."""
    import numpy as np
    import pandas as pd

    value, token = moments.arrays["top_value"], moments.arrays["top_token_index"]
    number, rank = (axis.reshape(-1) for axis in np.indices(value.shape))
    table = pd.DataFrame(
        {
            "model": name,
            "layer": (number // d_mlp).astype("int32"),
            "neuron": (number % d_mlp).astype("int32"),
            "rank": rank.astype("int32"),
            "token_index": token.reshape(-1),
            "row": (token // context).reshape(-1).astype("int32"),
            "position": (token % context).reshape(-1).astype("int32"),
            "value": value.reshape(-1),
        }
    )
    return table[table["token_index"] >= 0].reset_index(drop=True)


def reference_columns(pairs: list[Pair]) -> pd.DataFrame:
    """Moments of each reference neuron's correlations with all neurons of each partner."""
    import pandas as pd

    columns = {}
    for pair in pairs:
        for name, values in power_moments(pair.row_powers, pair.neurons[1]).items():
            columns[f"corr_{name}[{pair.b}]"] = values
    return pd.DataFrame(columns)


def partner_view(pairs: list[Pair]) -> pd.DataFrame:
    """What the same correlations say of the partners' neurons: their best match in the reference."""
    import numpy as np
    import pandas as pd

    tables = []
    for pair in pairs:
        number, best = np.arange(pair.neurons[1]), pair.column_top_index[:, 0]
        columns = {
            "model": pair.b,
            "layer": (number // pair.d_mlp[1]).astype("int32"),
            "neuron": (number % pair.d_mlp[1]).astype("int32"),
            f"max_corr[{pair.a}]": pair.column_top_value[:, 0],
            f"layer[{pair.a}]": best // pair.d_mlp[0],
            f"neuron[{pair.a}]": best % pair.d_mlp[0],
        }
        for name, values in power_moments(pair.column_powers, pair.neurons[0]).items():
            columns[f"corr_{name}[{pair.a}]"] = values
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def main(
    activations: list[Path],
    moments: list[Path],
    histograms: Path,
    correlations: list[Path],
    excess: Path,
    clusters: Path,
    neurons: Output,
    examples: Output,
    further: list[Path],
) -> None:
    """Write both tables; ``moments`` lists the files of all ranges model by model, as ``activations``.

    ``further`` are tables with ``model``, ``layer`` and ``neuron``, whose other columns are joined.
    """
    import pandas as pd

    pairs, sources = load_pairs(correlations), open_all(activations)
    require_one_reference(pairs)
    require_sources(pairs, sources)
    require_histograms(histograms, sources)
    counted = Histograms(histograms)
    if len(moments) % len(sources):
        raise UserError(f"--moments: {len(moments)} files of {len(sources)} models, expected as many of each")
    ranges = len(moments) // len(sources)
    tables, tops = [], []
    for place, source in enumerate(sources.values()):
        own = Moments(moments[place * ranges : (place + 1) * ranges], source)
        columns = [model_table(source.name, source.d_mlp, own), histogram_table(counted, source.name)]
        tables.append(pd.concat(columns, axis=1))
        tops.append(model_examples(source.name, source.d_mlp, source.n_ctx, own))
    table = pd.concat(tables, ignore_index=True)
    everything = neuron_keys(sources)
    members = read_members(clusters, sources)[[*KEYS, "cluster", "stability"]]
    require_rows(clusters, members[KEYS], everything, "the activations", every=False)
    members["cluster"] = members["cluster"].astype("Int32")
    table = table.merge(members, on=KEYS, how="left")
    reference = pd.concat([read_excess(excess, pairs), reference_columns(pairs)], axis=1)
    reference.insert(0, "model", pairs[0].a)
    for name in reference.select_dtypes("bool"):
        reference[name] = reference[name].astype("boolean")  # null, not False, for the other models
    whole = table.merge(reference, on=KEYS, how="left").merge(partner_view(pairs), on=KEYS, how="left")
    for column in whole.columns:
        if column.startswith(("layer[", "neuron[")):
            whole[column] = whole[column].astype("Int32")
    for path in further:
        columns = read_table(path, needed=KEYS).to_pandas()
        require_rows(path, columns[KEYS], everything, "the activations")
        whole = whole.merge(columns, on=KEYS, how="left", validate="one_to_one")
    whole = pd.concat([whole, percentiles(whole, [name for name in METRICS if name in whole])], axis=1)
    write_table(whole, neurons)
    write_table(pd.concat(tops, ignore_index=True), examples)


if __name__ == "__main__":
    run(main)
