"""Tables of neurons: the columns that they share, and their readers."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

from steps.core.errors import UserError
from steps.core.stores import Folder, read_table, require_rows
from steps.neurons.activations.store import Activations
from steps.neurons.correlations.pairs import Pair

if TYPE_CHECKING:
    import pandas as pd


EXCESS_COLUMNS = [
    *("layer", "neuron", "max_corr", "mean_corr", "min_corr", "mean_baseline", "excess_corr"),
    *("excess_corr_draws", "universal", "privileged_basis", "constant"),
]
"""Columns of the excess table that later steps read."""


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


KEYS = ["model", "layer", "neuron"]
"""What identifies a neuron."""


MEASURES = ("pearson", "cosine", "jaccard")
"""Of similarity, in the table of ``neurons.similarity``."""


NULLS = ("rotated", "permuted", "gaussian")
"""What takes the partner's place there."""


METRICS = {
    "activation_frequency": "activation frequency",
    "mean": "mean",
    "skew": "skew",
    "kurt": "kurtosis",
    "input_bias": "input bias",
    "in_out_sim": "cos(in, out)",
    "l2_penalty": "L2 penalty",
    "vocab_kurt": "W_U kurtosis",
}
"""The metrics of the paper's figure 3, in its order, and what figures call them."""


def neuron_keys(sources: dict[str, Activations]) -> pd.DataFrame:
    """All neurons of some models, by :data:`KEYS`, in the order of the neuron table."""
    import numpy as np
    import pandas as pd

    parts = []
    for name, source in sources.items():
        number = np.arange(source.neurons)
        parts.append(
            pd.DataFrame({"model": name, "layer": number // source.d_mlp, "neuron": number % source.d_mlp})
        )
    return pd.concat(parts, ignore_index=True)


def read_examples(path: Path, sources: dict[str, Activations]) -> pd.DataFrame:
    """Read the table ``examples`` of the models ``sources``.

    Raises:
        UserError: the file is damaged or something else, or of other models or tokens.
    """
    table: pd.DataFrame = read_table(path, [*KEYS, "rank", "token_index", "value"]).to_pandas()
    require_rows(path, table[KEYS].drop_duplicates(), neuron_keys(sources), "the activations")
    last, end = int(table["token_index"].max()), min(len(source.tokens) for source in sources.values())
    if last >= end:
        raise UserError(
            f"{path}: names token {last}, expected one of the {end} of the activations;"
            " give that of the same study, or delete it and run snakemake again"
        )
    return table


def require_histograms(path: Path, sources: dict[str, Activations]) -> None:
    """Refuse histograms of other activations.

    Raises:
        UserError: they were not made from those of each model.
    """
    made_from = Folder(path, "histograms").made_from["activations"]
    for source in sources.values():
        own = source.store.fingerprint
        source.require_origin(path, own if own in made_from else None)


def read_members(path: Path, sources: Container[str]) -> pd.DataFrame:
    """Read the table ``clusters``, whose members are neurons of the models ``sources``.

    Raises:
        UserError: the file is damaged or something else, or of other models.
    """
    names = ["cluster", "size", "models", "stability", "mean_corr", "model", "layer", "neuron"]
    table: pd.DataFrame = read_table(path, names).to_pandas()
    others = [name for name in table["model"].unique() if name not in sources]
    if others:
        raise UserError(
            f"{path}: holds neurons of {others[0]!r}, which is none of the models; delete it and run"
            " snakemake again"
        )
    return table
