"""Roles of neurons from their effect on the vocabulary (paper, sections 5 and 6).

Reads the weight columns of ``neurons.weights`` and, for the activation kurtosis that some entropy queries
need, the neuron table. Writes three parquet tables and two figures with their data. ``roles``: a row per
neuron of every model:

==========================  =======================================================================
column                      definition
==========================  =======================================================================
``role``                    by the paper's rule: ``prediction``, ``suppression`` (kurtosis of cosines
                            above 10, by the sign of the skewness), else ``partition`` (variance above
                            0.005), else empty
``role_width_free``         the same with d_model times variance above 5.12
``entropy_rank``            place among the candidates of the configured query, by variance; null for others
``entropy_rank[QUERY]``     the same for each query whose columns are there
``partner_layer _neuron``   of entropy candidates: the neuron whose w_out is most opposite
``partner_cos``             its cosine; near -1 for an anti-entropy neuron
==========================  =======================================================================

and the columns of the weights that decide or label (``vocab_*``, ``l2_penalty``, ``null_space_*``,
``best_feature*``). ``depth``: for every model and layer, percentiles of kurtosis and skewness, the median
skewness of the neurons of high kurtosis, and how many neurons have each role. Figures: ``roles`` (how many
of the universal neurons of the last layers have a role) and ``roles_by_depth`` (F6, F22).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from steps.core.errors import UserError
from steps.core.figures import COLOURS, new_figure, save_figure
from steps.core.runner import Output, run
from steps.core.stores import write_json
from steps.neurons.classify import ENTROPY, KURTOSIS, ROLES, entropy_columns, entropy_ranks, roles
from steps.neurons.universal import UniversalSettings, chosen, describe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

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
    "best_feature",
    "best_feature_vr",
    "best_feature_sign",
)

PERCENTILES = (5, 10, 25, 50, 75, 90, 95)

CAPTIONS = {
    "roles": "Of the universal neurons in the last layers, and of all others there, how many predict tokens,"
    " suppress tokens or partition the vocabulary. The paper finds that almost all universal ones do one of"
    " these. Its limit on the variance holds for a width of 1024; the width-free rule is ours.",
    "roles_by_depth": "Percentiles over the neurons of a layer of the kurtosis and skewness of the cosines"
    " between output weights and unembedding, and neurons of each role, the mean over all models; thin lines"
    " are single models. In the paper, prediction neurons come first and suppression neurons last.",
}

LABELS = {"role": "the paper's rule", "role_width_free": "the width-free rule"}


class Settings(UniversalSettings):
    """Which neurons are candidates, and which are shown."""

    entropy_query: Literal["small", "medium", "pythia", "width_free"] = Field(
        "width_free", description="limits of entropy candidates: the paper's for a model set, or ours"
    )
    activations: bool = Field(
        True, description="take activation kurtosis and universal neurons from the neuron table"
    )
    last_layers: float = Field(
        0.25, gt=0, le=1, description="share of the layers that count as the last ones"
    )


def role_table(weights: pd.DataFrame, query: str) -> pd.DataFrame:
    """The table of the module's docstring; ``weights`` has ``kurt`` where activations are known.

    Raises:
        UserError: the query needs the activation kurtosis, which is not there.
    """
    import pandas as pd

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
    if "w_out_min_cos" in weights:
        candidate = table.filter(like="entropy_rank").notna().any(axis=1)
        for new, old in (("layer", "layer"), ("neuron", "neuron"), ("cos", "cos")):
            table[f"partner_{new}"] = weights[f"w_out_min_{old}"].where(candidate)
    return table


def depth_table(table: pd.DataFrame) -> pd.DataFrame:
    """Percentiles and counts of every model and layer; ``depth`` runs from 0 to 1 at the last layer."""
    import numpy as np
    import pandas as pd

    rows = []
    for (model, layer), part in table.groupby(["model", "layer"], sort=False):
        row: dict[str, Any] = {"model": model, "layer": layer}
        row["depth"] = layer / max(1, int(part["layers"].iloc[0]) - 1)
        for name in ("kurt", "skew"):
            values = part[f"vocab_{name}"].dropna().to_numpy()
            levels = np.percentile(values, PERCENTILES) if len(values) else [np.nan] * len(PERCENTILES)
            row |= {f"vocab_{name}[{p}]": v for p, v in zip(PERCENTILES, levels, strict=True)}
        heavy = part[part["vocab_kurt"] > KURTOSIS]
        row |= {"neurons": len(part), "high_kurtosis": len(heavy)}
        row["median_skew_of_high_kurtosis"] = heavy["vocab_skew"].median()
        for column in LABELS:
            row |= {f"{role}[{column}]": int((part[column] == role).sum()) for role in ROLES}
        rows.append(row)
    return pd.DataFrame(rows)


def draw_roles(table: pd.DataFrame, settings: Settings) -> tuple[Figure, dict[str, Any]]:
    """How many of the reference's universal neurons of the last layers have each role, beside all others.

    Args:
        table: the reference's rows of the role table, with the boolean column ``in_set``.
        settings: which set this is, and how many layers count as last.
    """
    import math

    layers = int(table["layers"].iloc[0])
    first = layers - math.ceil(settings.last_layers * layers)
    last = table[table["layer"] >= first]
    label = describe(settings.universal_set, settings.top_share, int(last["in_set"].sum()))
    figure, both = new_figure(1, 2, width=4.6)
    where = f"layers {first} to {layers - 1} of {table['model'].iloc[0]}"
    data: dict[str, Any] = {"set": label, "first_layer": first, "last_layer": layers - 1}
    for axes, (column, title) in zip(both, LABELS.items(), strict=True):
        data[column] = {}
        for place, (name, part) in enumerate(
            (("universal", last[last["in_set"]]), ("others", last[~last["in_set"]]))
        ):
            counts = {role: int((part[column] == role).sum()) for role in ROLES}
            counts["none"] = len(part) - sum(counts.values())
            data[column][name] = counts
            left = 0.0
            for (role, count), colour in zip(counts.items(), (*COLOURS[:3], "#d9d9d9"), strict=True):
                share = 100 * count / max(1, len(part))
                axes.barh(place, share, left=left, color=colour, label=role if place == 0 else None)
                left += share
        axes.set_yticks(
            [0, 1],
            [
                f"universal\n({int(last['in_set'].sum())})",
                f"others\n({len(last) - int(last['in_set'].sum())})",
            ],
        )
        axes.set(xlim=(0, 100), xlabel="% of these neurons", title=f"Roles by {title}")
        if not last["in_set"].any():
            axes.text(50, 0, label, ha="center", va="center", fontsize=7, wrap=True)
    both[0].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=4)
    figure.suptitle(f"{where}; {label}", fontsize="medium")
    return figure, data


def draw_depth(depth: pd.DataFrame) -> tuple[Figure, dict[str, Any]]:
    """Kurtosis and skewness of vocabulary effects and roles over relative depth, the mean over models."""
    figure, (a, b, c) = new_figure(1, 3, width=4.2)
    models = list(depth["model"].unique())
    mean = depth.drop(columns=["model", "layer"]).groupby("depth").mean().sort_index()
    data: dict[str, Any] = {"models": models, "depth": mean.index.tolist()}
    for axes, name in ((a, "kurt"), (b, "skew")):
        for percentile in PERCENTILES:
            column = f"vocab_{name}[{percentile}]"
            data[column] = [None if value != value else float(value) for value in mean[column]]
            shade = 0.25 + 0.75 * (1 - abs(percentile - 50) / 50)
            axes.plot(
                mean.index,
                mean[column],
                marker="o",
                markersize=2.5,
                color=COLOURS[0],
                alpha=shade,
                label=f"{percentile}%",
            )
    a.axhline(3, color=COLOURS[6], linestyle=":", linewidth=1)
    b.axhline(0, color=COLOURS[6], linestyle=":", linewidth=1)
    a.set(xlabel="relative depth", ylabel="kurtosis of cos(w_out, W_U)", title="Percentiles of kurtosis")
    b.set(xlabel="relative depth", ylabel="skewness of cos(w_out, W_U)", title="Percentiles of skewness")
    a.legend(fontsize=6, ncols=2)
    for role, colour in zip(ROLES, COLOURS, strict=False):
        for column, style in zip(LABELS, ("-", ":"), strict=True):
            values = mean[f"{role}[{column}]"]
            data[f"{role}[{column}]"] = values.tolist()
            shown = role if column == "role" else f"{role}, width-free"
            c.plot(mean.index, values, style, marker="o", markersize=2.5, color=colour, label=shown)
        for _, part in depth.groupby("model", sort=False):
            c.plot(part["depth"], part[f"{role}[role]"], color=colour, alpha=0.15, linewidth=0.8)
    c.set(xlabel="relative depth", ylabel="neurons per layer", title=f"Roles, mean of {len(models)} models")
    c.legend(fontsize=6)
    if mean[[f"{role}[role]" for role in ROLES]].to_numpy().sum() == 0:
        c.text(0.5, 0.9, "no neuron has a role by the paper's rule", transform=c.transAxes, ha="center")
    return figure, data


def metrics(table: pd.DataFrame) -> dict[str, int]:
    """Counts for the reference model, whose rows come first."""
    own = table[table["model"] == table["model"].iloc[0]]
    return {
        **{role: int((own["role"] == role).sum()) for role in ROLES},
        **{f"{role}_width_free": int((own["role_width_free"] == role).sum()) for role in ROLES},
        "entropy_candidates": int(own["entropy_rank"].notna().sum()),
    }


def main(
    weights: Path,
    neurons: list[Path],
    settings: Settings,
    table: Output,
    depth: Output,
    figure: Output,
    data: Output,
    depth_figure: Output,
    depth_data: Output,
) -> None:
    """Write the tables and figures; ``neurons`` is the neuron table or nothing, the reference comes first."""
    import pandas as pd

    known = pd.read_parquet(weights)
    activity = pd.read_parquet(neurons[0]) if neurons else None
    if activity is not None:
        known = known.drop(columns="kurt", errors="ignore").merge(
            activity[[*KEYS, "kurt"]], on=KEYS, how="left", validate="one_to_one"
        )
    whole = role_table(known, settings.entropy_query)
    whole.to_parquet(table, index=False)
    layers = depth_table(whole)
    layers.to_parquet(depth, index=False)
    reference = whole[whole["model"] == whole["model"].iloc[0]].reset_index(drop=True)
    if activity is None:
        reference["in_set"] = False
    else:
        own = reference[KEYS].merge(activity, on=KEYS, how="left", validate="one_to_one")
        reference["in_set"] = chosen(own, settings.universal_set, settings.top_share)
    for drawn, shown, out, out_data in (
        (*draw_roles(reference, settings), figure, data),
        (*draw_depth(layers), depth_figure, depth_data),
    ):
        save_figure(drawn, out)
        write_json(out_data, shown)


if __name__ == "__main__":
    run(main)
