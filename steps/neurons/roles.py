"""Roles of neurons from their effect on the vocabulary (paper, sections 5 and 6).

Reads the weight columns of ``neurons.weights`` and, for the activation kurtosis that some entropy queries
need, the neuron table. Writes two parquet tables. ``roles``: a row per neuron of every model:

==========================  =======================================================================
column                      definition
==========================  =======================================================================
``role``                    by the paper's rule: ``prediction``, ``suppression`` (kurtosis of cosines
                            above 10, by the sign of the skewness), else ``partition`` (variance above
                            0.005), else empty
``role_width_free``         the same with d_model times variance above 5.12
``entropy_rank``            place among the candidates of the configured query, by variance; null for others
``entropy_rank[QUERY]``     the same for each query whose columns are there
``null_space_p``            how often a random direction has as large a part in the null space as w_out
``entropy_p_adjusted``      the same, adjusted among the neurons of the model that the configured query
                            admits by layer, norm and activation kurtosis (Benjamini-Hochberg); null for
                            others
``entropy``                 whether it is at most ``q``: the calibrated call
``partner_layer _neuron``   of the neurons that one of these names: the neuron whose w_out is most opposite
``partner_cos``             its cosine; near -1 for an anti-entropy neuron
==========================  =======================================================================

and the columns of the weights that decide or label (``vocab_*``, ``l2_penalty``, ``null_space_*``,
``best_feature*``). ``depth``: for every model and layer, percentiles of kurtosis and skewness, how many
neurons have a kurtosis above 10 and percentiles of their skewness, and how many neurons have each role.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from steps.core.errors import UserError
from steps.core.runner import Output, run
from steps.core.settings import Settings as BaseSettings
from steps.core.statistics import discovered
from steps.core.stores import read_table, require_rows, write_table
from steps.neurons.selection.rules import (
    ENTROPY,
    KURTOSIS,
    PERCENTILES,
    ROLE_COLUMNS,
    ROLES,
    entropy_columns,
    entropy_ranks,
    entropy_test,
    roles,
)

if TYPE_CHECKING:
    import pandas as pd


KEYS = ["model", "layer", "neuron"]


KEPT = (
    "d_model",
    "layers",
    "l2_penalty",
    "w_out_norm",
    "vocab_mean",
    "vocab_var",
    "vocab_skew",
    "vocab_kurt",
    "null_space_fraction",
    "null_space_chance",
    "null_space_k",
    "best_feature",
    "best_feature_vr",
    "best_feature_sign",
)


class Settings(BaseSettings):
    """Which neurons are candidates."""

    renamed: ClassVar[dict[str, str]] = {
        "last_layers": "neurons.figure.last_layers",
        "universal_set": "neurons.figure.universal_set",
        "top_share": "neurons.figure.top_share",
    }

    q: float = Field(0.05, gt=0, lt=1, description="false discovery rate of entropy neurons")
    entropy_query: Literal["small", "medium", "pythia", "width_free"] = Field(
        "width_free",
        description="limits of entropy candidates: small, medium, pythia (paper's model sets) or"
        " width_free (ours); the test keeps those on layer, norm and activation kurtosis",
    )
    activations: bool = Field(
        True,
        description="take activation kurtosis and universal neurons from the neuron table; false:"
        " weights only",
    )

    @model_validator(mode="after")
    def _query_has_what_it_needs(self) -> Settings:
        if not self.activations and "kurt" in entropy_columns(ENTROPY[self.entropy_query]):
            possible = [name for name, query in ENTROPY.items() if "kurt" not in entropy_columns(query)]
            raise ValueError(
                f"activations: true, since entropy_query: {self.entropy_query} needs the activation kurtosis,"
                f" which weights alone do not give; or entropy_query: {' or '.join(possible)}"
            )
        return self


def role_table(weights: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The table of the module's docstring; ``weights`` has ``kurt`` where activations are known.

    Raises:
        UserError: the query needs the activation kurtosis, which is not there.
    """
    import pandas as pd

    query = settings.entropy_query
    if "kurt" in entropy_columns(ENTROPY[query]) and "kurt" not in weights:
        raise UserError(
            f"neurons.roles.entropy_query: {query} needs the activation kurtosis, which weights alone do not"
            " give; set neurons.roles.activations, or the query to pythia"
        )
    table = weights[[*KEYS, *KEPT]].copy()
    table["role"] = pd.array(roles(weights), dtype="str")
    table["role_width_free"] = pd.array(roles(weights, times_width=True), dtype="str")
    for name, limits in ENTROPY.items():
        if set(entropy_columns(limits)) <= set(weights):
            table[f"entropy_rank[{name}]"] = entropy_ranks(weights, limits)
    table["entropy_rank"] = table[f"entropy_rank[{query}]"]
    table["null_space_p"], table["entropy_p_adjusted"] = entropy_test(weights, ENTROPY[query])
    table["entropy"] = discovered(table["entropy_p_adjusted"], settings.q)
    if "w_out_min_cos" in weights:
        candidate = table.filter(like="entropy_rank").notna().any(axis=1) | table["entropy"]
        for new, old in (("layer", "layer"), ("neuron", "neuron"), ("cos", "cos")):
            table[f"partner_{new}"] = weights[f"w_out_min_{old}"].where(candidate)
    return table


def depth_table(table: pd.DataFrame) -> pd.DataFrame:
    """Percentiles and counts of every model and layer; ``depth`` runs from 0 to 1 at the last layer."""
    import numpy as np
    import pandas as pd

    def percentiles(name: str, values: pd.Series) -> dict[str, float]:
        known = values.dropna().to_numpy(float)
        levels = np.percentile(known, PERCENTILES) if len(known) else [np.nan] * len(PERCENTILES)
        return {f"{name}[{p}]": float(value) for p, value in zip(PERCENTILES, levels, strict=True)}

    rows = []
    for (model, layer), part in table.groupby(["model", "layer"], sort=False):
        row: dict[str, Any] = {"model": model, "layer": layer}
        row["depth"] = layer / max(1, int(part["layers"].iloc[0]) - 1)
        for name in ("vocab_kurt", "vocab_skew"):
            row |= percentiles(name, part[name])
        heavy = part[part["vocab_kurt"] > KURTOSIS]
        row |= {"neurons": len(part), "high_kurtosis": len(heavy)}
        row |= percentiles("high_kurtosis_skew", heavy["vocab_skew"])
        for column in ROLE_COLUMNS:
            row |= {f"{role}[{column}]": int((part[column] == role).sum()) for role in ROLES}
        rows.append(row)
    return pd.DataFrame(rows)


def main(weights: Path, neurons: list[Path], settings: Settings, table: Output, depth: Output) -> None:
    """Write both tables; ``neurons`` is the neuron table or nothing."""
    known = read_table(weights, needed=[*KEYS, *KEPT]).to_pandas()
    if neurons:
        activity = read_table(neurons[0], [*KEYS, "kurt"]).to_pandas()
        require_rows(neurons[0], activity[KEYS], known[KEYS], weights)
        known = known.drop(columns="kurt", errors="ignore").merge(
            activity, on=KEYS, how="left", validate="one_to_one"
        )
    whole = role_table(known, settings)
    write_table(whole, table)
    write_table(depth_table(whole), depth)


if __name__ == "__main__":
    run(main)
